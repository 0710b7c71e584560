"""The cache of all nodes, in Redis."""

from collections.abc import Awaitable, Callable
from typing import Any

from angarium.bus.redis_link import RedisLink, in_time
from angarium.clock import Clock
from angarium.errors import Unavailable
from angarium.limits import CACHE_VALUE_BYTES_MAX, SOFT_AWAY_S


class RedisCache:
    """Implements `Cache`. The link belongs to the caller.

    `<namespace>:cache:<key in hex>`; the server forgets it when its time is over. After a
    failure Redis is left alone for SOFT_AWAY_S.
    """

    def __init__(self, link: RedisLink, clock: Clock, *, namespace: str = "angarium") -> None:
        self._link, self._clock, self._prefix = link, clock, f"{namespace}:cache:"
        self._away_until_s = 0.0
        self._hits = self._misses = self._failures = 0

    async def get(self, key: bytes) -> bytes | None:
        found = await self._ask(lambda: self._link.client.get(self._name(key)))
        if isinstance(found, bytes):
            self._hits += 1
            return found
        self._misses += 1
        return None

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        client, name = self._link.client, self._name(key)
        if len(value) > CACHE_VALUE_BYTES_MAX:
            await self._ask(lambda: client.delete(name))
        else:
            ttl_ms = max(1, round(ttl_s * 1000))
            await self._ask(lambda: client.set(name, value, px=ttl_ms))

    def figures(self) -> dict[str, int]:
        return {
            "hits": self._hits,
            "misses": self._misses,
            "failures": self._failures,
        }

    def _name(self, key: bytes) -> str:
        return self._prefix + key.hex()

    async def _ask(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self._clock.monotonic_s() < self._away_until_s:
            return None
        try:
            return await in_time(call())
        except Unavailable:
            self._failures += 1
            self._away_until_s = self._clock.monotonic_s() + SOFT_AWAY_S
            return None
