"""What nodes may remember for each other for a while: the contract, and one process's own."""

from collections import OrderedDict
from typing import Protocol

from angarium.clock import Clock
from angarium.limits import CACHE_ENTRIES_MAX, CACHE_VALUE_BYTES_MAX


class Cache(Protocol):
    """Soft state: a value may be gone at any time, and nothing may depend on it being there.

    Neither call raises or waits longer than SOFT_WAIT_S: a cache that is away knows nothing.
    Keys are short and hold no plaintext (make them with a keyed hash); neither do values.
    """

    async def get(self, key: bytes) -> bytes | None:
        """The value put last under `key` while it lives, or None."""
        ...

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Remember `value` for at most `ttl_s`. One over CACHE_VALUE_BYTES_MAX is not kept."""
        ...


class LocalCache:
    """Implements `Cache` in this process; at `entries_max` the one used longest ago goes."""

    def __init__(self, clock: Clock, entries_max: int = CACHE_ENTRIES_MAX) -> None:
        self._clock, self._entries_max = clock, entries_max
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    async def get(self, key: bytes) -> bytes | None:
        return self.peek(key)

    def peek(self, key: bytes) -> bytes | None:
        """The same without waiting: what is hot is asked for often."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= self._clock.monotonic_s():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return found[1]

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        self.keep(key, value, ttl_s)

    def keep(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """The same without waiting."""
        self._entries.pop(key, None)  # Whatever was there is outdated, too large or not.
        if len(value) > CACHE_VALUE_BYTES_MAX:
            return
        self._entries[key] = (self._clock.monotonic_s() + ttl_s, value)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
