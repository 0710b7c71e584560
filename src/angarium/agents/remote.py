"""Agents that run elsewhere, declared by their address: `Remote.a2a` and its like."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from pydantic import SecretStr

from angarium.agents.kinds.a2a import A2AAgent
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

    @staticmethod
    def a2a(
        name: str,
        card_url: str,
        description: str = "",
        *,
        api_key: SecretStr | str | None = None,
        hosts: Sequence[str] = (),
        keys: Mapping[str, Any] | None = None,
        **terms: Unpack[TermOptions],
    ) -> A2AAgent:
        """An agent that speaks A2A (1.0 or 0.3), by the URL of its card or of its host.

        Description and skills are the card's where none are given. A card that leads to
        another host than its own is refused, unless `hosts` lists it
        (`https://agents.example`). With `keys`, public keys by their id as PEM or JWK, only a
        card that one of them has signed counts. Needs the extra `a2a`.
        """
        return A2AAgent(
            check_name(name),
            card_url,
            description,
            terms=make_terms(terms),
            api_key=api_key,
            hosts=hosts,
            keys=keys,
        )
