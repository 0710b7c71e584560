"""Agents elsewhere that speak A2A: 1.0, and 0.3 for peers that know no better."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from angarium.agents.contract import STOPPING, AgentEvent, Host, Terms, Turn
from angarium.agents.kinds.caller import Secret, secret_of
from angarium.clock import Clock, SystemClock
from angarium.errors import AngariumError, Misconfigured
from angarium.limits import A2A_CANCEL_S

_log = logging.getLogger(__name__)


class A2AAgent:
    """Calls the agent whose card is at `card_url` (or at the well-known place under it).

    `api_key` goes, as a bearer token, to the card's host and to `hosts`
    (`https://agent.example`), nowhere else; a card that names other hosts is refused. With
    `keys` (key id to public key, PEM or JWK) only a card signed with one of them counts.
    Without skills of its own the agent is routed to by its card's.

    Raises Misconfigured for an address that is none, and where the extra `a2a` is missing.
    """

    def __init__(
        self,
        name: str,
        card_url: str,
        description: str = "",
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        api_key: Secret | None = None,
        hosts: Sequence[str] = (),
        keys: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        try:
            from angarium.agents.kinds.a2a_line import Line
        except ImportError:
            raise Misconfigured(
                f"agent {name!r} speaks A2A; install it with `pip install 'angarium[a2a]'`"
            ) from None
        self.name, self.description, self.terms = name, description, terms
        secret = secret_of(api_key)
        self._line = Line(
            card_url,
            headers={"authorization": f"Bearer {secret}"} if secret else {},
            hosts=hosts,
            keys=keys,
            quiet_s=max(terms.quiet_s, terms.first_event_s),
            clock=clock or SystemClock(),
        )
        self._goodbyes: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether its card was had and found good."""
        return self._line.ready

    async def open(self, host: Host) -> None:
        """Fetch the card. Raises BadCard, Unavailable; each turn tries again then."""
        await self._line.client()
        self.description = self.description or self._line.description
        if not self.terms.skills:
            self.terms = replace(self.terms, skills=self._line.skills)

    async def close(self) -> None:
        """Say what is left to say to the agent (A2A_CANCEL_S at most), then hang up."""
        await asyncio.gather(*self._goodbyes, return_exceptions=True)
        await self._line.close()

    async def run(self, turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        """The agent's answer to the turn; its task goes on at the next attempt.

        Raises AgentFailed, BadReply, BadCard, Misconfigured, TooLarge, Unavailable.
        """
        async with self._line.exchange(turn) as exchange:
            try:
                async with aclosing(exchange.run()) as events:
                    async for event in events:
                        yield event
            except (asyncio.CancelledError, GeneratorExit) as stopped:
                # Where the process stops, another goes on; else nobody waits any more.
                if exchange.open_task and STOPPING not in stopped.args:
                    self._say_goodbye(exchange.open_task)
                raise

    def _say_goodbye(self, task: str) -> None:
        goodbye = asyncio.create_task(self._cancel(task), name=f"cancel at {self.name}")
        self._goodbyes.add(goodbye)
        goodbye.add_done_callback(self._goodbyes.discard)

    async def _cancel(self, task: str) -> None:
        try:
            async with asyncio.timeout(A2A_CANCEL_S):
                await self._line.cancel(task)
        except (AngariumError, TimeoutError) as error:
            code = error.code if isinstance(error, AngariumError) else "timed_out"
            _log.warning("agent %s was not told to stop: %s", self.name, code)
