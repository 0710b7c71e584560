"""What discovery found, for a node that starts: sealed, in the cache of all nodes."""

import hashlib
import zlib
from collections.abc import Sequence

import msgspec

from angarium.agents.discovery.found import Found
from angarium.bus.cache import Cache
from angarium.clock import Clock
from angarium.errors import SealBroken
from angarium.kms.contract import Sealer
from angarium.limits import (
    CACHE_VALUE_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    SNAPSHOT_KEPT_S,
    SNAPSHOT_PIECES_MAX,
)


class Snapshot(msgspec.Struct, frozen=True):
    """All that was found, when, and the version that names it."""

    version: str
    at_ms: int
    found: tuple[Found, ...]


class SharedSnapshot:
    """Soft: absent, old, broken or foreign, there is none. Sealed, because whoever could write
    it could send people's messages elsewhere."""

    def __init__(self, cache: Cache, sealer: Sealer, clock: Clock, name: str) -> None:
        self._cache, self._sealer, self._clock = cache, sealer, clock
        self._place = f"discovery/{name}"
        self._key = hashlib.sha256(self._place.encode()).digest()[:16]

    async def load(self) -> Snapshot | None:
        """What a node stored last, at most SNAPSHOT_KEPT_S ago."""
        blob = bytearray()
        for index in range(SNAPSHOT_PIECES_MAX):
            piece = await self._cache.get(self._key + bytes([index]))
            if piece is None:
                break
            blob += piece
            if len(piece) < CACHE_VALUE_BYTES_MAX:
                break
        if not blob:
            return None
        try:
            packed = self._sealer.unseal(bytes(blob), self._place)
            whole = zlib.decompressobj().decompress(packed, SNAPSHOT_BYTES_MAX)
            snapshot = msgspec.json.decode(whole, type=Snapshot)
        except (SealBroken, zlib.error, msgspec.MsgspecError):
            return None
        age_ms = self._clock.now_ms() - snapshot.at_ms
        return snapshot if age_ms < SNAPSHOT_KEPT_S * 1000 else None

    async def store(self, found: Sequence[Found]) -> None:
        """Let others know. One over SNAPSHOT_PIECES_MAX pieces is not shared."""
        made = Snapshot(version_of(found), self._clock.now_ms(), tuple(found))
        blob = self._sealer.seal(zlib.compress(msgspec.json.encode(made), 3), self._place)
        size = CACHE_VALUE_BYTES_MAX
        pieces = [blob[start : start + size] for start in range(0, len(blob) + 1, size)]
        if len(pieces) > SNAPSHOT_PIECES_MAX:
            return
        for index, piece in enumerate(pieces):
            await self._cache.put(self._key + bytes([index]), piece, SNAPSHOT_KEPT_S)


def version_of(found: Sequence[Found]) -> str:
    """The same wherever the same was found."""
    return hashlib.sha256(msgspec.json.encode(tuple(found))).hexdigest()[:16]
