"""The card of a remote agent: fetched within bounds, verified, kept as long as it holds."""

import asyncio
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from a2a.client.card_resolver import parse_agent_card
from a2a.types import AgentCard
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

from angarium.agents.contract import Skill
from angarium.agents.kinds.a2a_http import origin_of
from angarium.clock import Clock
from angarium.errors import BadCard, BadReply, Misconfigured, TooLarge, Unavailable
from angarium.limits import (
    A2A_CARD_BYTES_MAX,
    A2A_CARD_CHARS_MAX,
    A2A_CARD_EXAMPLES_MAX,
    A2A_CARD_KEPT_MAX_S,
    A2A_CARD_KEPT_MIN_S,
    A2A_CARD_KEPT_S,
    A2A_CARD_SKILLS_MAX,
)

BINDINGS = ("JSONRPC", "HTTP+JSON")
SIGNED_WITH = ("ES256", "ES384", "EdDSA", "PS256", "RS256")
WELL_KNOWN = "/.well-known/agent-card.json"
_VERSIONS = re.compile(r"|1(\.\d+)*|0\.3(\.\d+)*", re.ASCII)
_MAX_AGE = re.compile(r"max-age=(\d{1,9})")
Keys = Mapping[str, Any]
"""By key id: a public key, as PEM text or as a JWK."""


def card_url_of(url: str) -> str:
    """A bare address of an agent means the card at its well-known place."""
    return url if url.endswith(".json") else url.rstrip("/") + WELL_KNOWN


@dataclass(frozen=True, slots=True)
class _Kept:
    card: AgentCard
    etag: str
    until_s: float


class CardSource:
    """The card of one agent. One fetch at a time; while its server is away, the last one."""

    def __init__(
        self,
        url: str,
        *,
        origins: Collection[str],
        keys: Keys | None,
        clock: Clock,
    ) -> None:
        self._url, self._origins = url, origins
        self._keys, self._clock = keys, clock
        self._kept: _Kept | None = None
        self._fetching = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether there is a card that was found good."""
        return self._kept is not None

    async def get(self, http: httpx.AsyncClient) -> AgentCard:
        """The card, fetched with `http` where the last one is old.

        Raises BadCard, and Unavailable when there is none and none to be had.
        """
        async with self._fetching:
            kept, now_s = self._kept, self._clock.monotonic_s()
            if kept is not None and now_s < kept.until_s:
                return kept.card
            try:
                self._kept = await self._fetch(http, kept, now_s)
            except Unavailable:
                if kept is None:
                    raise
                # Its server is away, which says nothing about the agent's: ask again later.
                until_s = now_s + A2A_CARD_KEPT_MIN_S
                self._kept = _Kept(kept.card, kept.etag, until_s)
            except BadReply:
                self._kept = None
                raise
            return self._kept.card

    async def _fetch(self, http: httpx.AsyncClient, kept: _Kept | None, now_s: float) -> _Kept:
        headers = {"if-none-match": kept.etag} if kept is not None and kept.etag else {}
        try:
            async with http.stream("GET", self._url, headers=headers) as response:
                until_s = now_s + _kept_s(response)
                if response.status_code == 304 and kept is not None:
                    return _Kept(kept.card, kept.etag, until_s)
                if response.status_code in {408, 425, 429} or response.status_code >= 500:
                    raise Unavailable(f"a card's server answers {response.status_code}")
                if response.status_code != 200:
                    raise BadCard(f"a card's server answers {response.status_code}")
                raw = await _read(response)
                return _Kept(self._check(raw), response.headers.get("etag", ""), until_s)
        except httpx.HTTPError as error:
            raise Unavailable(f"a card cannot be had: {type(error).__name__}") from None
        except TooLarge:
            raise BadCard(f"a card has at most {A2A_CARD_BYTES_MAX} bytes") from None

    def _check(self, raw: bytes) -> AgentCard:
        card = parse_card(raw)
        if self._keys is not None:
            verify(card, self._keys)
        usable = [
            interface
            for interface in card.supported_interfaces
            if interface.protocol_binding in BINDINGS
            and _VERSIONS.fullmatch(interface.protocol_version)
            and origin_of(interface.url) in self._origins
        ]
        if not usable:
            raise BadCard(
                "a card names no address of A2A 1.0 or 0.3 over HTTP on its own host;"
                " list other hosts in `hosts`"
            )
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(usable)
        return card


async def _read(response: httpx.Response) -> bytes:
    raw = bytearray()
    async for piece in response.aiter_bytes():
        raw += piece
        if len(raw) > A2A_CARD_BYTES_MAX:
            raise TooLarge("card")
    return bytes(raw)


def _kept_s(response: httpx.Response) -> float:
    told = _MAX_AGE.search(response.headers.get("cache-control", ""))
    kept_s = float(told[1]) if told else A2A_CARD_KEPT_S
    return min(max(kept_s, A2A_CARD_KEPT_MIN_S), A2A_CARD_KEPT_MAX_S)


def parse_card(raw: bytes) -> AgentCard:
    """A card of A2A 1.0 or 0.3. Raises BadCard."""
    try:
        card = parse_agent_card(json.loads(raw))
    # The SDK looks into members before it has checked that they are objects.
    except (ValueError, ParseError, RecursionError, TypeError, AttributeError, KeyError):
        raise BadCard("a card is not the JSON of an A2A agent card") from None
    if not card.name:
        raise BadCard("a card without a name")
    return card


def verify(card: AgentCard, keys: Keys) -> None:
    """Raises BadCard unless one of its signatures is by one of `keys`, Misconfigured for a key
    that cannot be read."""
    try:
        from a2a.utils.signing import SignatureVerificationError, create_signature_verifier
        from jwt import PyJWK
        from jwt.exceptions import InvalidKeyError, PyJWKError
    except ImportError:
        raise Misconfigured(
            "to verify cards, install it with `pip install 'angarium[a2a]'`"
        ) from None

    def find(kid: str | None, _address: str | None) -> Any:
        key = keys.get(kid or "")
        if key is None:
            raise InvalidKeyError("unknown key")  # The verifier tries the next signature.
        try:
            return PyJWK.from_dict(dict(key)) if isinstance(key, Mapping) else key
        except PyJWKError:
            raise Misconfigured(f"the card key {kid!r} is not a public JWK") from None

    try:
        create_signature_verifier(find, list(SIGNED_WITH))(card)
    except (SignatureVerificationError, ValueError, TypeError, RecursionError):
        raise BadCard("a card is not signed with any of the given keys") from None


def skills_of(card: AgentCard) -> tuple[Skill, ...]:
    """Its skills with their examples, cut to the bounds: what they say is not ours."""
    chars = A2A_CARD_CHARS_MAX
    return tuple(
        Skill(
            (skill.id or skill.name)[:chars],
            tuple(one[:chars] for one in skill.examples[:A2A_CARD_EXAMPLES_MAX]),
            skill.description[:chars],
        )
        for skill in card.skills[:A2A_CARD_SKILLS_MAX]
    )
