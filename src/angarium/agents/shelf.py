"""What is kept of requests to agents, so that a later one can go on with it. Sealed.

Bounded per person and dropped after KEPT_REQUEST_S: by whoever puts something new there, and by
`sweep` for those who never come again.
"""

import hashlib

import msgspec

from angarium.clock import Clock
from angarium.errors import SealBroken
from angarium.ids import UserId
from angarium.kms.contract import Sealer
from angarium.limits import (
    KEPT_REQUEST_BYTES_MAX,
    KEPT_REQUEST_S,
    KEPT_REQUESTS_PER_PERSON_MAX,
    KEPT_SWEPT_BACK_S,
)
from angarium.storage.contract import DropRecord, PutRecord, Record, Vault, Write

_HOUR_MS = 3_600_000
_DUE = "requests-due"


class Kept(msgspec.Struct, omit_defaults=True):
    """A request and its answer. `journal` is packed; it holds a question without an answer
    where the agent asked something, and is empty otherwise. `history` is (role, text) up to
    and with the answer; `before` is how many entries of it were there before `text`."""

    agent: str
    text: str
    history: list[tuple[str, str]]
    before: int
    conversation: str
    key: str
    created_ms: int
    journal: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


class Shelf:
    """Kept requests by person and name."""

    def __init__(self, vault: Vault, sealer: Sealer, clock: Clock) -> None:
        self._vault, self._sealer, self._clock = vault, sealer, clock

    async def put(self, user: UserId, name: str, kept: Kept) -> None:
        """Keep it; the person's oldest ones go when there are too many, and the oldest
        exchanges of its history where it is too large. Raises what Vault.write raises."""
        scope, now_ms = _scope(user), self._clock.now_ms()
        records = [
            record for record in await self._vault.read(scope) if _name(record.key) != name
        ]
        room = KEPT_REQUESTS_PER_PERSON_MAX - 1
        fresh = [record for record in records if not _is_over(record, now_ms)][-room:]
        gone: list[Write] = [
            DropRecord(scope, record.key) for record in records if record not in fresh
        ]
        key = f"{kept.created_ms:014d}.{name}"
        blob = self._sealer.seal(_pack(kept), f"{scope}/{key}")
        due = f"{(kept.created_ms + KEPT_REQUEST_S * 1000) // _HOUR_MS + 1:08d}/{scope}"
        # When it is due goes first: a crash in between leaves nothing that nobody drops.
        await self._vault.write([PutRecord(_DUE, due, b""), PutRecord(scope, key, blob), *gone])

    async def find(self, user: UserId, name: str) -> Kept | None:
        """What was kept under the name, unless its time is over. One that does not open, or
        does not read, counts as not there."""
        scope, now_ms = _scope(user), self._clock.now_ms()
        for record in reversed(await self._vault.read(scope)):
            if _name(record.key) == name and not _is_over(record, now_ms):
                try:
                    return _decode(self._sealer.unseal(record.blob, f"{scope}/{record.key}"))
                except (SealBroken, msgspec.DecodeError):
                    return None
        return None

    async def drop(self, user: UserId, name: str) -> bool:
        """Whether there was one."""
        scope = _scope(user)
        found = [
            record.key for record in await self._vault.read(scope) if _name(record.key) == name
        ]
        await self._vault.write([DropRecord(scope, key) for key in found])
        return bool(found)

    async def forget(self, user: UserId) -> None:
        """Drop all of one person's."""
        scope = _scope(user)
        records = await self._vault.read(scope)
        await self._vault.write([DropRecord(scope, record.key) for record in records])

    async def sweep(self) -> int:
        """Drop what is past its time, as far back as KEPT_SWEPT_BACK_S; returns how many.

        Call it more often than that. Any number of nodes may.
        """
        now_ms, dropped = self._clock.now_ms(), 0
        hours = KEPT_SWEPT_BACK_S // 3600
        for hour in range(now_ms // _HOUR_MS - hours, now_ms // _HOUR_MS + 1):
            for due in await self._vault.read(_DUE, f"{hour:08d}/"):
                scope = due.key.partition("/")[2]
                over = [
                    record.key
                    for record in await self._vault.read(scope)
                    if _is_over(record, now_ms)
                ]
                gone = [DropRecord(scope, key) for key in over]
                await self._vault.write([*gone, DropRecord(_DUE, due.key)])
                dropped += len(over)
        return dropped


def _scope(user: UserId) -> str:
    """One for each person; says nothing about who it is to whoever reads names of scopes."""
    return f"requests/{hashlib.sha256(f'requests/{user}'.encode()).hexdigest()[:32]}"


def _name(key: str) -> str:
    return key.partition(".")[2]


def _is_over(record: Record, now_ms: int) -> bool:
    return int(record.key.partition(".")[0]) + KEPT_REQUEST_S * 1000 <= now_ms


def _pack(kept: Kept) -> bytes:
    packed = _encode(kept)
    while len(packed) > KEPT_REQUEST_BYTES_MAX and kept.history:
        cut = max(1, len(kept.history) // 4)
        kept = msgspec.structs.replace(
            kept, history=kept.history[cut:], before=max(0, kept.before - cut)
        )
        packed = _encode(kept)
    return packed
