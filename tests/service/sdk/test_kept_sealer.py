"""Processes that start at once on one store seal under one key."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from angarium.clock import ManualClock
from angarium.kms.local import LocalKms
from angarium.sdk.stored import kept_sealer
from angarium.storage.contract import Fence, Record, Vault, Write
from angarium.storage.sqlite.store import open_sqlite


class MeetingVault:
    """Both processes have looked before either writes."""

    def __init__(self, vault: Vault, meeting: asyncio.Barrier) -> None:
        self._vault, self._meeting = vault, meeting
        self._met = False

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        found = await self._vault.read(scope, prefix)
        if not self._met:
            self._met = True
            await self._meeting.wait()
        return found

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        await self._vault.write(writes, fence)


def test_two_processes_that_start_at_once_seal_under_one_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        opened = await open_sqlite(None, ManualClock(), inline=True)
        meeting = asyncio.Barrier(2)
        try:
            first, second = await asyncio.gather(
                *(
                    kept_sealer(
                        MeetingVault(opened.store.vault, meeting),
                        LocalKms(tmp_path / "kms.json"),
                        "gateway",
                    )
                    for _ in range(2)
                )
            )
        finally:
            await opened.close()
        assert second.unseal(first.seal(b"x", "place"), "place") == b"x"

    asyncio.run(scenario())
