"""A device's writes: joined, in order, and never given up."""

import asyncio
from collections.abc import Sequence

import pytest

from angarium.errors import Conflict, Fenced, Unavailable
from angarium.sdk import journal as journal_module
from angarium.sdk.journal import Journal
from angarium.storage.contract import DropRecord, Fence, PutRecord, Record, Write
from angarium.storage.sqlite.store import open_sqlite

from .relay_in_memory import CLOCK


class Recording:
    """A real vault that counts its writes and fails as told first."""

    def __init__(self, vault: object) -> None:
        self._vault = vault
        self.batches: list[int] = []
        self.failures: list[Exception] = []

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        return await self._vault.read(scope, prefix)  # type: ignore[attr-defined,no-any-return]

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        self.batches.append(len(writes))
        if self.failures:
            raise self.failures.pop(0)
        await self._vault.write(writes, fence)  # type: ignore[attr-defined]


def put(key: str, expect_rev: int | None = None) -> PutRecord:
    return PutRecord("s", key, key.encode(), expect_rev)


def with_journal(scenario: object) -> None:
    async def whole() -> None:
        sqlite = await open_sqlite(None, CLOCK, inline=True)
        vault = Recording(sqlite.store.vault)
        journal = Journal(vault, None)
        running = asyncio.create_task(journal.run())
        try:
            await scenario(journal, vault)  # type: ignore[operator]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await sqlite.close()

    asyncio.run(whole())


def test_what_waits_goes_out_in_one_write_and_in_order() -> None:
    async def scenario(journal: Journal, vault: Recording) -> None:
        entries = [journal.add([], [put(f"k{n}")]) for n in range(5)]
        await asyncio.gather(*entries)
        assert vault.batches == [5]
        assert [record.key for record in await vault.read("s")] == [f"k{n}" for n in range(5)]

    with_journal(scenario)


def test_a_conflict_of_one_program_does_not_touch_the_others() -> None:
    async def scenario(journal: Journal, vault: Recording) -> None:
        await journal.add([put("taken")], [])
        good = journal.add([], [put("good")])
        bad = journal.add([put("taken", expect_rev=0)], [put("ratchet")])
        await good
        with pytest.raises(Conflict):
            await bad
        kept = [record.key for record in await vault.read("s")]
        assert kept == ["good", "ratchet", "taken"]

    with_journal(scenario)


def test_a_store_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from angarium.errors import DiskFull

    monkeypatch.setattr(journal_module, "RECONNECT_MIN_S", 0.0)

    async def scenario(journal: Journal, vault: Recording) -> None:
        vault.failures = [Unavailable(), DiskFull("full")]
        await journal.add([], [put("k")])
        assert [record.key for record in await vault.read("s")] == ["k"]

    with_journal(scenario)


def test_a_fenced_device_writes_nothing_more() -> None:
    async def scenario(journal: Journal, vault: Recording) -> None:
        vault.failures = [Fenced("newer owner")]
        with pytest.raises(Fenced):
            await journal.add([], [put("a")])
        with pytest.raises(Fenced):
            await journal.add([], [put("b")])
        assert await vault.read("s") == []

    with_journal(scenario)


def test_the_ratchet_goes_before_what_leaves_and_after_what_came() -> None:
    async def scenario(journal: Journal, vault: Recording) -> None:
        written: list[str] = []
        write = vault.write

        async def noting(writes: Sequence[Write], fence: Fence | None = None) -> None:
            written.extend(each.key for each in writes if isinstance(each, PutRecord))
            await write(writes, fence)

        vault.write = noting  # type: ignore[method-assign]
        await journal.add([put("came")], [put("ratchet")], [put("leaves")])
        assert written == ["came", "ratchet", "leaves"]

    with_journal(scenario)


def test_after_a_conflict_the_ratchet_stays_and_nothing_leaves() -> None:
    async def scenario(journal: Journal, vault: Recording) -> None:
        await journal.add([], [put("taken"), put("out")])
        undo = [DropRecord("s", "out")]
        bad = journal.add([], [put("ratchet")], [put("taken", expect_rev=0)], undo)
        with pytest.raises(Conflict):
            await bad
        assert [record.key for record in await vault.read("s")] == ["ratchet", "taken"]

    with_journal(scenario)


def test_a_device_fenced_while_it_settles_a_conflict_leaves_nobody_waiting() -> None:
    async def scenario(journal: Journal, vault: Recording) -> None:
        # The joined write, the first alone, then its ratchet: by then another has the lease.
        vault.failures = [Conflict("a"), Conflict("a"), Fenced("newer owner")]
        entries = [journal.add([put(f"k{n}")], [put("ratchet")]) for n in range(3)]
        async with asyncio.timeout(5):
            ended = await asyncio.gather(*entries, return_exceptions=True)
        assert [type(each) for each in ended] == [Fenced] * 3
        assert await vault.read("s") == []

    with_journal(scenario)


def test_who_waits_for_an_ended_journal_is_told() -> None:
    async def scenario() -> None:
        class Stuck:
            async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
                await asyncio.get_running_loop().create_future()

        journal = Journal(Stuck(), None)  # type: ignore[arg-type]
        running = asyncio.create_task(journal.run())
        writing = journal.add([], [put("a")])
        await asyncio.sleep(0)
        queued = journal.add([], [put("b")])
        running.cancel()
        async with asyncio.timeout(5):
            ended = await asyncio.gather(writing, queued, return_exceptions=True)
        assert [type(each) for each in ended] == [Unavailable] * 2
        with pytest.raises(Unavailable):
            await journal.add([], [put("c")])

    asyncio.run(scenario())
