"""Remembers decisions, so that the same words in the same situation need no model."""

import hashlib
import hmac

import msgspec

from angarium.agents.routing.rules import Verdict
from angarium.agents.routing.words import normalise
from angarium.bus.cache import Cache, LocalCache
from angarium.clock import Clock
from angarium.limits import EMBED_CHARS_MAX, ROUTE_CACHE_KEY_S, ROUTE_CACHE_S

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Verdict).decode


class RouteCache:
    """A local memory, before one that nodes share where there is one.

    A key is a keyed hash over the registry's version, the agent that has the conversation, the
    channel and the normalised text; its secret changes daily. A value holds an agent, a score
    and a reason. Neither tells what was written.
    """

    def __init__(self, secret: bytes, clock: Clock, shared: Cache | None = None) -> None:
        self._secret, self._clock, self._shared = secret, clock, shared
        self._local = LocalCache(clock)
        self._day, self._key = -1, b""

    def key(self, version: str, sticky: str, channel: str, text: str) -> bytes:
        """The key of this text in this situation: of as much of it as the model reads."""
        day = self._clock.now_ms() // (ROUTE_CACHE_KEY_S * 1000)
        if day != self._day:
            self._day = day
            self._key = hmac.digest(self._secret, b"angarium route cache/%d" % day, "sha256")
        # No name holds a line break; the text comes last.
        said = "\n".join((version, sticky, channel, normalise(text[:EMBED_CHARS_MAX])))
        return hmac.digest(self._key, said.encode("utf-8", "surrogatepass"), hashlib.sha256)

    def peek(self, key: bytes) -> Verdict | None:
        """From this process's memory, without waiting."""
        return _read(self._local.peek(key))

    async def get(self, key: bytes) -> Verdict | None:
        """From the shared memory; then it is in the local one, too."""
        if self._shared is None:
            return None
        found = await self._shared.get(key)
        verdict = _read(found)
        if found is not None and verdict is not None:
            self._local.keep(key, found, ROUTE_CACHE_S)
        return verdict

    async def put(self, key: bytes, verdict: Verdict) -> None:
        packed = _encode(verdict)
        self._local.keep(key, packed, ROUTE_CACHE_S)
        if self._shared is not None:
            await self._shared.put(key, packed, ROUTE_CACHE_S)


def _read(value: bytes | None) -> Verdict | None:
    """What others wrote may be of another version."""
    if value is None:
        return None
    try:
        return _decode(value)
    except msgspec.DecodeError:
        return None
