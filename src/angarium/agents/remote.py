"""Agents that run elsewhere, declared by their address: `Remote.openai`, `.cloudevents`."""

from collections.abc import Mapping
from typing import Any, Unpack

from pydantic import SecretStr

from angarium.agents.kinds.cloudevents import CloudEventsAgent, Mode
from angarium.agents.kinds.openai import ChatModel, OpenAIAgent
from angarium.agents.terms import TermOptions, check_name, make_terms


class Remote:
    """Makes agents of services elsewhere; each way of speaking has its own maker.

    `api_key` is a `SecretStr`, or the name of the environment variable that holds it; it is
    sent as a bearer token. The other keywords are those of `TermOptions`. All raise
    Misconfigured for a name that cannot be mentioned and for a URL that is none.
    """

    @staticmethod
    def openai(
        name: str,
        description: str,
        *,
        base_url: str,
        model: str,
        api_key: SecretStr | str | None = None,
        prompt: str = "",
        extra: Mapping[str, Any] | None = None,
        price_usd: tuple[float, float] = (0.0, 0.0),
        **terms: Unpack[TermOptions],
    ) -> OpenAIAgent:
        """An agent on `base_url` (with its `/v1`) that speaks OpenAI's Chat Completions.

        `prompt` goes first in every request, `extra` into its body. `price_usd` is what a
        million tokens cost, read and written, for budgets.
        """
        return OpenAIAgent(
            check_name(name),
            description,
            make_terms(terms),
            base_url=base_url,
            chat=ChatModel(model, prompt, extra, *price_usd),
            api_key=api_key,
        )

    @staticmethod
    def cloudevents(
        name: str,
        description: str,
        url: str,
        *,
        mode: Mode = "binary",
        api_key: SecretStr | str | None = None,
        accepted: str = "",
        **terms: Unpack[TermOptions],
    ) -> CloudEventsAgent:
        """An agent at `url` that takes each turn as a CloudEvent and answers in the response.

        `accepted` is told to the person where it only says 202; without it that is an error.
        Raises Misconfigured for a `mode` that is none.
        """
        return CloudEventsAgent(
            check_name(name),
            description,
            make_terms(terms),
            url=url,
            mode=mode,
            api_key=api_key,
            accepted=accepted,
        )
