"""How long tasks are kept: each record says when it was saved, an index when to look again."""

from angarium.clock import Clock
from angarium.limits import A2A_TASK_KEPT_S, KEPT_SWEPT_BACK_S
from angarium.storage.contract import DropRecord, PutRecord, Vault, Write

_HOUR_MS = 3_600_000
_DUE = "a2a-due"
_STAMP_BYTES = 8


def stamped(saved_ms: int, sealed: bytes) -> bytes:
    """A sealed record as it is stored. Seal `saved_ms` in with its place."""
    return saved_ms.to_bytes(_STAMP_BYTES, "big") + sealed


def saved_ms_of(blob: bytes) -> int:
    return int.from_bytes(blob[:_STAMP_BYTES], "big")


def sealed_of(blob: bytes) -> bytes:
    return blob[_STAMP_BYTES:]


def is_over(blob: bytes, now_ms: int) -> bool:
    """Whether its time is over."""
    return saved_ms_of(blob) + A2A_TASK_KEPT_S * 1000 <= now_ms


def due(scope: str, saved_ms: int) -> PutRecord:
    """When to look into the scope again. Write it before what it is about."""
    hour = (saved_ms + A2A_TASK_KEPT_S * 1000) // _HOUR_MS + 1
    return PutRecord(_DUE, f"{hour:08d}/{scope}", b"")


async def sweep(vault: Vault, clock: Clock) -> int:
    """Drop tasks whose time is over, as far back as KEPT_SWEPT_BACK_S; returns how many.

    Any number of nodes may.
    """
    now_ms, dropped = clock.now_ms(), 0
    hours = KEPT_SWEPT_BACK_S // 3600
    for hour in range(now_ms // _HOUR_MS - hours, now_ms // _HOUR_MS + 1):
        for entry in await vault.read(_DUE, f"{hour:08d}/"):
            scope = entry.key.partition("/")[2]
            records = await vault.read(scope)
            over = [record.key for record in records if is_over(record.blob, now_ms)]
            left = [saved_ms_of(each.blob) for each in records if each.key not in over]
            writes: list[Write] = [due(scope, max(left))] if left else []
            writes += [DropRecord(scope, key) for key in over]
            await vault.write([*writes, DropRecord(_DUE, entry.key)])
            dropped += len(over)
    return dropped
