import asyncio
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from angarium.clock import ManualClock
from angarium.errors import (
    Busy,
    DiskFull,
    NotFound,
    SchemaMismatch,
    StoreUnwritable,
    Unavailable,
)
from angarium.limits import APPEND_QUEUE_MESSAGES
from angarium.model.conversation import Participant
from angarium.model.message import Accepted, NewMessage
from angarium.storage.care import check
from angarium.storage.contract import PutRecord
from angarium.storage.sqlite import checkpoints
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import SqliteStore, open_sqlite


def with_sqlite(folder: Path, scenario: Callable[[SqliteStore], Awaitable[None]]) -> None:
    async def run() -> None:
        store = await open_sqlite(folder, ManualClock())
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(run())


def message(cs: int, size: int = 100) -> NewMessage:
    return NewMessage("c", "@a:x", "DEVICE01", f"k{cs}", cs, "m", {"DEVICE02": b"x" * size}, 0)


async def converse(store: SqliteStore) -> None:
    await store.store.conversations.create("c", [Participant("@a:x", "person")], 0)


def execute(store: SqliteStore, statement: str) -> None:
    """Do something to the writer's connection that the product never does."""
    store._writer.connection.execute(statement).fetchall()


def test_writes_that_arrive_together_share_commits(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await asyncio.gather(
            *(store.store.vault.write([PutRecord("s", str(n), b"x")]) for n in range(300))
        )
        assert store.figures()["commit_parts"] >= 300
        assert store.figures()["commits"] <= 10
        assert len(await store.store.vault.read("s")) == 300

    with_sqlite(tmp_path, scenario)


def test_too_much_that_waits_is_busy_and_what_waited_is_done(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await converse(store)
        batches = [[message(1 + n * 512 + i) for i in range(512)] for n in range(16)]
        assert sum(map(len, batches)) == APPEND_QUEUE_MESSAGES
        tasks = [asyncio.ensure_future(store.store.log.append(batch)) for batch in batches]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await store.check()
        assert refused.value.after_ms > 0
        for task in tasks:
            assert all(isinstance(result, Accepted) for result in await task)
        await store.check()

    with_sqlite(tmp_path, scenario)


def test_a_fault_in_one_part_is_that_callers_alone(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        def torn(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES ('torn', 1)")
            raise ZeroDivisionError

        def twice(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES ('twice', 1)")
            connection.execute("INSERT INTO meta VALUES ('twice', 2)")

        def good(connection: sqlite3.Connection) -> str:
            connection.execute("INSERT INTO meta VALUES ('good', 1)")
            return "kept"

        writes = [store._commits.write(work) for work in (torn, twice, good)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(result) for result in results] == [ZeroDivisionError, Unavailable, str]
        names = await store._reads.read(
            lambda c: [row[0] for row in c.execute("SELECT name FROM meta")]
        )
        assert names == ["good"]

    with_sqlite(tmp_path, scenario)


def test_a_message_that_cannot_be_bound_spoils_no_other_callers(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await converse(store)
        odd = replace(message(3), kind="\ud800")
        batches = [[message(1)], [message(2), odd], [message(2)], [message(3)]]
        results = await asyncio.gather(
            *(store.store.log.append(batch) for batch in batches), return_exceptions=True
        )
        kinds = [r[0] if isinstance(r, list) else type(r) for r in results]
        assert kinds[1] is UnicodeEncodeError
        assert [kinds[n].sequence for n in (0, 2, 3)] == [1, 2, 3]  # type: ignore[union-attr]
        assert len(await store.store.log.read("c", "D", 0, 2**70, 9)) == 3

    with_sqlite(tmp_path, scenario)


def test_a_cancelled_caller_tears_no_group(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        tasks = [
            asyncio.ensure_future(store.store.vault.write([PutRecord("s", str(n), b"")]))
            for n in range(20)
        ]
        await asyncio.sleep(0)
        tasks[7].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [n for n, r in enumerate(results) if r is not None] == [7]
        assert len(await store.store.vault.read("s")) == 20

    with_sqlite(tmp_path, scenario)


def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_space_returns(
    tmp_path: Path,
) -> None:
    async def scenario(store: SqliteStore) -> None:
        await converse(store)
        await store.store.log.append([message(1)])
        execute(store, "PRAGMA max_page_count=1")  # SQLite clamps it to the pages in use.
        with pytest.raises(DiskFull):
            await store.store.log.append([message(2, size=60_000)])
        with pytest.raises(DiskFull):
            await store.store.vault.write([PutRecord("s", "k", b"x" * 60_000)])
        execute(store, "PRAGMA max_page_count=1000000")
        (result,) = await store.store.log.append([message(2, size=60_000)])
        assert result.sequence == 2  # type: ignore[union-attr]
        assert store.figures()["commit_failures"] == 2

    with_sqlite(tmp_path, scenario)
    assert check(tmp_path).sound


def test_a_store_that_may_not_write_says_so_and_recovers(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        execute(store, "PRAGMA query_only=ON")
        with pytest.raises(StoreUnwritable):
            await store.check()
        execute(store, "PRAGMA query_only=OFF")
        await store.check()

    with_sqlite(tmp_path, scenario)


def test_another_process_that_keeps_the_lock_makes_it_unavailable_for_a_while(
    tmp_path: Path,
) -> None:
    async def scenario(store: SqliteStore) -> None:
        execute(store, "PRAGMA busy_timeout=10")
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable) as refused:
                await store.check()
            assert refused.value.after_ms > 0
            assert await store.store.vault.read("s") == []  # Readers do not wait for writers.
            other.execute("ROLLBACK")
        await store.check()

    with_sqlite(tmp_path, scenario)


def test_the_write_ahead_log_stays_short_under_constant_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "STORE_WAL_CHECKPOINT_BYTES", 100_000)

    async def scenario(store: SqliteStore) -> None:
        await converse(store)
        longest = 0
        for start in range(1, 1200, 20):
            await store.store.log.append([message(start + n, 1000) for n in range(20)])
            longest = max(longest, store.figures()["wal_bytes"])
        assert store.figures()["checkpoints"] >= 2
        assert longest < 1_500_000

    with_sqlite(tmp_path, scenario)
    assert not (tmp_path / f"{FILE_NAME}-wal").exists()


def test_the_database_is_synced_before_commits_are_held_through_sqlites_own_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "STORE_WAL_CHECKPOINT_BYTES", 100_000)
    held: list[bool] = []

    async def scenario(store: SqliteStore) -> None:
        def sync(descriptor: int) -> None:
            assert os.path.samestat(os.fstat(descriptor), (tmp_path / FILE_NAME).stat())
            held.append(store._commits._held)

        monkeypatch.setattr(os, "fdatasync", sync)
        await converse(store)
        for start in range(1, 400, 20):
            await store.store.log.append([message(start + n, 1000) for n in range(20)])
        assert store.figures()["checkpoints"] >= 2

    with_sqlite(tmp_path, scenario)
    assert len(held) >= 2
    assert not any(held)


def test_closing_finishes_what_was_begun_and_then_refuses(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await open_sqlite(tmp_path, ManualClock())
        await converse(store)
        begun = [asyncio.ensure_future(store.store.log.append([message(1)])) for _ in range(9)]
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        assert [(await task)[0].sequence for task in begun] == [1] * 9  # type: ignore[union-attr]
        with pytest.raises(Unavailable):
            await store.check()
        with pytest.raises(Unavailable):
            await store.store.conversations.find("c")

    asyncio.run(scenario())


def test_a_folder_that_cannot_be_made_is_unwritable_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritable, match="set another `data`"):
        asyncio.run(open_sqlite(tmp_path / "file" / "data", ManualClock()))  # type: ignore[arg-type]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but long enough to look at" * 99)
    with pytest.raises((StoreUnwritable, SchemaMismatch)):
        asyncio.run(open_sqlite(tmp_path, ManualClock()))  # type: ignore[arg-type]


CHILD = """
import asyncio, sys
from pathlib import Path
from angarium.clock import SystemClock
from angarium.model.conversation import Participant
from angarium.model.message import NewMessage
from angarium.storage.sqlite.store import open_sqlite

async def main():
    store = (await open_sqlite(Path(sys.argv[1]), SystemClock())).store
    await store.conversations.create("c", [Participant("@a:x", "person")], 0)
    async def write(device):
        for cs in range(1, 100000):
            new = NewMessage("c", "@a:x", device, f"k{cs}", cs, "m", {"D": b"x" * 500}, 0)
            (result,) = await store.log.append([new])
            print(device, cs, result.sequence, flush=True)
    await asyncio.gather(*(write(f"DEVICE{n}") for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        lines = [await child.stdout.readline() for _ in range(400)]
        child.kill()
        lines += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
        store = await open_sqlite(tmp_path, ManualClock())
        read = await store.store.log.read("c", "D", 1, 10**6, 10**6)
        await store.close()
        stored = {(entry.device, entry.cs, entry.sequence) for entry in read}
        for line in lines:
            if line.endswith(b"\n"):
                device, cs, sequence = line.split()
                assert (device.decode(), int(cs), int(sequence)) in stored
        assert [entry.sequence for entry in read] == list(range(1, len(read) + 1))

    asyncio.run(scenario())
    assert check(tmp_path).sound


def test_purging_in_an_unknown_conversation_costs_its_neighbours_nothing(
    tmp_path: Path,
) -> None:
    async def scenario(store: SqliteStore) -> None:
        await converse(store)
        results = await asyncio.gather(
            store.store.log.purge("missing", 1),
            store.store.log.append([message(1)]),
            return_exceptions=True,
        )
        assert isinstance(results[0], NotFound)
        assert isinstance(results[1], list)

    with_sqlite(tmp_path, scenario)
