import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from angarium.clock import ManualClock
from angarium.errors import Misconfigured, NotFound, StoreUnwritable
from angarium.model.conversation import Participant
from angarium.model.message import NewMessage, NotAccepted
from angarium.storage.care import backup, check, restore
from angarium.storage.contract import Blob, PutRecord
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import SqliteStore, open_sqlite


def message(cs: int) -> NewMessage:
    return NewMessage("c", "@a:x", "DEVICE01", f"k{cs}", cs, "m", {"D": b"sealed"}, 0)


async def fill(store: SqliteStore, messages: int = 5) -> None:
    await store.store.conversations.create("c", [Participant("@a:x", "person")], 0)
    await store.store.log.append([message(cs) for cs in range(1, messages + 1)])
    await store.store.vault.write([PutRecord("s", "k", b"sealed state")])
    await store.store.blobs.open(Blob("b", "@a:x", "c", 5, 1, (), False, 0, 10**14))
    await store.store.blobs.put_chunk("b", 0, b"bytes")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    async def scenario() -> None:
        store = await open_sqlite(tmp_path / "data", ManualClock())
        await fill(store)
        await store.close()

    asyncio.run(scenario())
    return tmp_path / "data"


def damage(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.execute(statement)
        connection.commit()


def chunk_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def test_a_store_in_order_is_sound(filled: Path) -> None:
    report = check(filled)
    assert (report.conversations, report.messages, report.blobs) == (1, 5, 1)
    assert report.sound
    assert report.orphans == ()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM messages WHERE seq = 3", "conversation c: 4 messages"),
        ("DELETE FROM messages WHERE seq = 1", "conversation c: 4 messages"),
        ("UPDATE messages SET cs = cs + 10 WHERE seq = 5", "counter 15 at sequence 5"),
        ("DELETE FROM writers", "counter"),
    ],
)
def test_holes_and_disorder_are_named(filled: Path, statement: str, says: str) -> None:
    damage(filled, statement)
    report = check(filled)
    assert not report.sound
    assert says in "; ".join(report.problems)


def test_lost_and_changed_bytes_of_attachments_are_named(filled: Path) -> None:
    (chunk,) = chunk_files(filled)
    chunk.write_bytes(b"other")
    assert check(filled).problems == ("attachment b: a chunk has changed",)
    chunk.unlink()
    assert check(filled).problems == ("attachment b: a chunk is missing",)


def test_a_chunk_without_a_row_is_an_orphan_and_no_problem(filled: Path) -> None:
    (chunk,) = chunk_files(filled)
    stray = chunk.with_name("stray.0.abc")
    stray.write_bytes(b"left by a crash")
    report = check(filled)
    assert report.sound
    assert report.orphans == (f"{stray.parent.name}/stray.0.abc",)


def test_a_damaged_page_is_found(filled: Path) -> None:
    path = filled / FILE_NAME
    content = bytearray(path.read_bytes())
    content[4096 * 8 : 4096 * 20] = b"\xff" * (4096 * 12)
    path.write_bytes(content)
    with pytest.raises(StoreUnwritable, match=r"damaged|problem"):
        backup(filled, filled.with_name("copy"))


def test_what_is_not_there_cannot_be_cared_for(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        check(tmp_path)
    with pytest.raises(NotFound):
        backup(tmp_path, tmp_path / "copy")
    with pytest.raises(NotFound):
        restore(tmp_path, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_beside_a_busy_node_is_one_moment_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await open_sqlite(tmp_path / "data", ManualClock())
        await fill(store)
        done = asyncio.Event()

        async def write_on() -> int:
            cs = 5
            while not done.is_set():
                cs += 1
                await store.store.log.append([message(cs)])
            return cs

        writer = asyncio.create_task(write_on())
        report = await asyncio.to_thread(backup, tmp_path / "data", tmp_path / "copy")
        done.set()
        last = await writer
        await store.close()
        assert 5 <= report.messages <= last

    asyncio.run(scenario())
    report = check(tmp_path / "copy")
    assert report.sound
    assert report.blobs == 1


def test_a_backup_overwrites_nothing(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(Misconfigured, match="exists already"):
        backup(filled, tmp_path / "copy")


def test_a_backup_of_a_damaged_store_is_not_called_one(filled: Path, tmp_path: Path) -> None:
    damage(filled, "DELETE FROM messages WHERE seq = 3")
    with pytest.raises(StoreUnwritable, match="problem"):
        backup(filled, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_restored_store_has_everything_under_a_new_epoch(
    filled: Path, tmp_path: Path
) -> None:
    clock = ManualClock()
    backup(filled, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new", clock)

    async def scenario() -> None:
        opened = await open_sqlite(tmp_path / "new", clock)
        store = opened.store
        head = (await store.log.heads(["c"]))["c"]
        assert (head.sequence, head.epoch) == (5, clock.now_ms())
        assert await store.blobs.read_chunk("b", 0) == b"bytes"
        assert (await store.vault.read("s"))[0].blob == b"sealed state"
        (again,) = await store.log.append([message(5)])
        assert not isinstance(again, NotAccepted)
        assert (again.duplicate, again.epoch) == (True, head.epoch)
        made = await store.conversations.create("lost-before", [], 0)
        assert made.epoch == head.epoch
        await opened.close()

    asyncio.run(scenario())
    assert check(tmp_path / "new").sound


def test_two_restores_of_one_backup_have_different_epochs(filled: Path, tmp_path: Path) -> None:
    backup(filled, tmp_path / "copy")
    clock = ManualClock()
    epochs = set()
    for name in ("one", "two"):
        clock.advance(1)
        restore(tmp_path / "copy", tmp_path / name, clock)
        with closing(sqlite3.connect(tmp_path / name / FILE_NAME)) as connection:
            epochs.add(connection.execute("SELECT epoch FROM conversations").fetchone()[0])
    assert len(epochs) == 2


def test_a_restore_goes_only_into_an_empty_folder(filled: Path, tmp_path: Path) -> None:
    backup(filled, tmp_path / "copy")
    with pytest.raises(Misconfigured, match="not empty"):
        restore(tmp_path / "copy", filled)
    (tmp_path / "empty").mkdir()
    assert restore(tmp_path / "copy", tmp_path / "empty").messages == 5


def test_a_damaged_backup_is_not_restored(filled: Path, tmp_path: Path) -> None:
    backup(filled, tmp_path / "copy")
    damage(tmp_path / "copy", "DELETE FROM messages WHERE seq = 3")
    with pytest.raises(StoreUnwritable, match="problem"):
        restore(tmp_path / "copy", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_of_the_store_are_for_their_owner_only(filled: Path, tmp_path: Path) -> None:
    backup(filled, tmp_path / "copy")
    for folder in (filled, tmp_path / "copy"):
        for path in folder.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
