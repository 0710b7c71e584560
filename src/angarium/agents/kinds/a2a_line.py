"""The connection to one remote agent: an HTTP client of its own, its card, the SDK's client."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.types import AgentCard, CancelTaskRequest

from angarium.agents.contract import Skill, Turn
from angarium.agents.kinds.a2a_card import (
    BINDINGS,
    CardSource,
    Keys,
    card_url_of,
    skills_of,
)
from angarium.agents.kinds.a2a_exchange import Exchange, call
from angarium.agents.kinds.a2a_http import make_client, origin_of
from angarium.agents.kinds.caller import check_url
from angarium.clock import Clock
from angarium.errors import BadCard
from angarium.limits import A2A_CARD_CHARS_MAX


class _Wire:
    """An HTTP client that is closed when it is no longer wanted and nobody uses it any more."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http, self._users, self._wanted = http, 0, True

    async def __aenter__(self) -> None:
        self._users += 1

    async def __aexit__(self, *ended: object) -> None:
        self._users -= 1
        await self._close_unused()

    async def close(self) -> None:
        self._wanted = False
        await self._close_unused()

    async def _close_unused(self) -> None:
        if not (self._wanted or self._users):
            await self.http.aclose()


class Line:
    """Made once per agent, before any loop runs; connects at the first use, and again after
    `close`."""

    def __init__(
        self,
        card_url: str,
        *,
        headers: Mapping[str, str],
        hosts: Sequence[str],
        keys: Keys | None,
        quiet_s: float,
        clock: Clock,
    ) -> None:
        self._origins = {origin_of(check_url(url)) for url in (card_url, *hosts)}
        self._headers, self._quiet_s = headers, quiet_s
        self._cards = CardSource(
            card_url_of(card_url), origins=self._origins, keys=keys, clock=clock
        )
        self._wire: _Wire | None = None
        self._card: AgentCard | None = None
        self._client: Client | None = None

    @property
    def ready(self) -> bool:
        return self._cards.ready

    @property
    def description(self) -> str:
        return self._card.description[:A2A_CARD_CHARS_MAX] if self._card else ""

    @property
    def skills(self) -> tuple[Skill, ...]:
        return skills_of(self._card) if self._card else ()

    async def client(self) -> Client:
        """Of the card as it is now. Raises BadCard, Unavailable."""
        http = self._connected().http
        card = await self._cards.get(http)
        if self._client is None or card is not self._card:
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=list(BINDINGS))
            try:
                self._client = ClientFactory(config).create(card)
            except ValueError:
                raise BadCard("a card names no version of A2A that is spoken here") from None
            self._card = card
        return self._client

    @asynccontextmanager
    async def exchange(self, turn: Turn) -> AsyncIterator[Exchange]:
        """The conduct of one turn. Raises BadCard, Unavailable."""
        async with self._connected():
            client = await self.client()
            streams = self._card is not None and self._card.capabilities.streaming
            yield Exchange(client, turn, streams=streams)

    async def cancel(self, task: str) -> None:
        """Raises AgentFailed (it has ended), BadReply, Misconfigured, Unavailable."""
        async with self._connected():
            client = await self.client()
            await call(client.cancel_task(CancelTaskRequest(id=task)))

    async def close(self) -> None:
        """Hang up, once the turns that still run have ended."""
        wire, self._wire, self._client = self._wire, None, None
        if wire is not None:
            await wire.close()

    def _connected(self) -> _Wire:
        if self._wire is None:
            http = make_client(self._origins, self._headers, self._quiet_s)
            self._wire, self._client = _Wire(http), None
        return self._wire
