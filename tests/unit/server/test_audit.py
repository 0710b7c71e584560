"""The audit trail: every outcome, no ghost's name."""

import asyncio
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.errors import Forbidden
from angarium.server.audit import AuditTrail
from angarium.storage.contract import AuditEntry

GHOST = "@wa_00112233445566778899aabbccddeeff:angarium"


class Entries(list[AuditEntry]):
    """An audit that keeps entries in a list."""

    async def append(self, entry: AuditEntry) -> None:  # type: ignore[override]
        super().append(entry)

    async def list(self, entries_max: int, before_id: int | None = None) -> Any:
        return self[::-1][:entries_max]


def trail(entries: Entries, secret: bytes = b"a" * 32) -> AuditTrail:
    return AuditTrail(audit=entries, clock=ManualClock(5), secret=secret)


def test_a_command_is_recorded_with_its_outcome() -> None:
    async def scenario() -> None:
        entries = Entries()
        async with trail(entries).command("@ada:x", "device.remove", "DEVICE"):
            pass
        with pytest.raises(Forbidden):
            async with trail(entries).command("@ada:x", "device.remove", "DEVICE"):
                raise Forbidden

        assert [entry.outcome for entry in entries] == ["done", "forbidden"]
        assert entries[0] == AuditEntry(5, "@ada:x", "device.remove", "DEVICE", "done")

    asyncio.run(scenario())


def test_ghosts_are_told_apart_but_not_named() -> None:
    async def scenario() -> None:
        entries = Entries()
        await trail(entries).record(GHOST, "participant.add", f"c1 {GHOST}", "done")
        await trail(entries, b"b" * 32).record(GHOST, "participant.add", "c1", "done")

        assert "wa_" not in repr(entries)
        assert entries[0].principal.startswith("ghost:")
        assert entries[0].target == f"c1 {entries[0].principal}"
        assert entries[1].principal != entries[0].principal, "the hash is keyed"

    asyncio.run(scenario())
