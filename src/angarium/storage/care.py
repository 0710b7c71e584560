"""Care of the embedded store for operators: migrate, back up, restore, check.

Plain blocking functions over a data folder; the command line calls them. `backup` and `check`
may run beside a living node, `migrate` and `restore` may not.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from angarium.clock import Clock, SystemClock
from angarium.errors import Misconfigured, NotFound, StoreUnwritable
from angarium.storage.chunks import chunk_digest, chunk_name, stored_names
from angarium.storage.files import make_folder, sync_folder, translate_os
from angarium.storage.report import PROBLEMS_MAX, Report
from angarium.storage.schema import check_version, demand_whole, upgrade, version_of
from angarium.storage.sqlite.connection import FILE_NAME, connect, translate

T = TypeVar("T")
BLOB_FOLDER = "blobs"


def migrate(folder: Path, clock: Clock | None = None) -> tuple[int, int]:
    """Bring the store to this program's schema; returns the versions before and after.

    Stop every node first. Raises NotFound, SchemaMismatch (the store is newer), Unavailable.
    """
    _demand_store(folder)
    now_ms = (clock or SystemClock()).now_ms()

    def work() -> tuple[int, int]:
        with closing(connect(folder)) as connection:
            return upgrade(connection, now_ms)

    return _in_our_words(work)


def check(folder: Path) -> Report:
    """Look for damage: pages, dense sequences, order of counters, chunks without their bytes.

    Reads everything once. Raises NotFound, SchemaMismatch.
    """
    _demand_store(folder)

    def work() -> Report:
        with closing(connect(folder)) as connection:
            check_version(connection)
            connection.execute("BEGIN")
            problems = _damaged_pages(connection) or [
                *_broken_sequences(connection),
                *_broken_counters(connection),
            ]
            expected = _expected_chunks(connection)
            problems += _broken_chunks(folder, expected)
            orphans = [n for n in stored_names(folder / BLOB_FOLDER) if n not in expected]
            conversations, messages, blobs = connection.execute(
                "SELECT (SELECT count(*) FROM conversations), (SELECT count(*) FROM messages),"
                " (SELECT count(*) FROM blobs)"
            ).fetchone()
            return Report(conversations, messages, blobs, tuple(problems), tuple(orphans))

    return _in_our_words(work)


def backup(folder: Path, target: Path) -> Report:
    """Copy the store to the new folder `target`, beside living nodes, and check the copy.

    The copy is of one moment. Attachments dropped while copying are left out of it. Raises
    NotFound, Misconfigured (`target` exists), SchemaMismatch, StoreUnwritable (the copy has a
    problem; it is removed), DiskFull.
    """
    _demand_store(folder)
    if target.exists():
        raise Misconfigured(f"{target} exists already; choose a new folder for the backup")
    beside = target.with_name(target.name + ".unfinished")

    def work() -> Report:
        shutil.rmtree(beside, ignore_errors=True)
        try:
            _copy_database(folder, beside)
            _copy_chunks(folder, beside)
            report = check(beside)
            if not report.sound:
                raise StoreUnwritable(f"the backup has a problem: {report.problems[0]}")
            beside.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return report

    return _in_our_words(work)


def restore(source: Path, folder: Path, clock: Clock | None = None) -> Report:
    """Make `folder` a store with the content of a backup. Stop every node first.

    Every conversation gets a new epoch, so cursors of the lost history are void. Raises
    NotFound (no backup), Misconfigured (`folder` is not empty), SchemaMismatch, StoreUnwritable
    (the backup has a problem), DiskFull.
    """
    _demand_store(source)
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder} is not empty; move it away, then restore")
    now_ms = (clock or SystemClock()).now_ms()

    def work() -> Report:
        report = check(source)
        if not report.sound:
            raise StoreUnwritable(f"the backup has a problem: {report.problems[0]}")
        beside = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            _copy_database(source, beside)
            _copy_chunks(source, beside)
            _begin_epoch(beside, now_ms)
            if folder.exists():
                folder.rmdir()
            beside.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return report

    return _in_our_words(work)


def _demand_store(folder: Path) -> None:
    if not (folder / FILE_NAME).is_file():
        raise NotFound(f"there is no store in {folder}")


def _in_our_words(work: Callable[[], T]) -> T:
    try:
        return work()
    except sqlite3.Error as error:
        raise translate(error) from None
    except OSError as error:
        raise translate_os(error) from None


# --- copying ---


def _copy_database(source: Path, target: Path) -> None:
    with closing(connect(source)) as original, closing(connect(target)) as copy:
        check_version(original)
        demand_whole(original)
        original.backup(copy)  # One step: a consistent moment, however busy the writers are.
    with closing(connect(target)) as copy:
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _copy_chunks(source: Path, target: Path) -> None:
    with closing(connect(target)) as copy:
        expected = _expected_chunks(copy)
        for name, (blob, _) in expected.items():
            place = target / BLOB_FOLDER / name
            make_folder(place.parent)
            try:
                shutil.copyfile(source / BLOB_FOLDER / name, place)
            except FileNotFoundError:
                if _is_described(source, blob):
                    raise StoreUnwritable(
                        "an attachment has lost its bytes; run `angarium db check`"
                    ) from None
                copy.execute("DELETE FROM blob_chunks WHERE blob = ?", (blob,))
                copy.execute("DELETE FROM blobs WHERE id = ?", (blob,))
            else:
                _sync_file(place)
        for folder in {(target / BLOB_FOLDER / name).parent for name in expected}:
            sync_folder(folder)


def _is_described(folder: Path, blob: str) -> bool:
    with closing(connect(folder)) as connection:
        row = connection.execute("SELECT 1 FROM blobs WHERE id = ?", (blob,)).fetchone()
        return row is not None


def _sync_file(path: Path) -> None:
    path.chmod(0o600)
    sync_folder(path)  # A file's descriptor syncs the same way.


def _begin_epoch(folder: Path, now_ms: int) -> None:
    """A new epoch above every old one; the time sets it apart from other restores."""
    with closing(connect(folder)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        newest = connection.execute(
            "SELECT max(coalesce((SELECT max(epoch) FROM conversations), 1),"
            " coalesce((SELECT value FROM meta WHERE name = 'epoch'), 1))"
        ).fetchone()[0]
        epoch = max(newest + 1, now_ms)
        connection.execute("UPDATE conversations SET epoch = ?", (epoch,))
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


# --- checking ---


def _damaged_pages(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})").fetchall()
    return [f"database: {row[0]}" for row in rows if row[0] != "ok"]


def _broken_sequences(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT c.name, count(DISTINCT m.seq), count(*), min(m.seq), max(m.seq)"
        " FROM messages AS m LEFT JOIN conversations AS c ON c.id = m.conversation"
        " GROUP BY m.conversation HAVING min(m.seq) <> 1 OR max(m.seq) <> count(*)"
        " OR count(DISTINCT m.seq) <> count(*) OR c.name IS NULL LIMIT ?",
        (PROBLEMS_MAX,),
    ).fetchall()
    return [
        f"conversation {name}: {count} messages at {distinct} sequences {first}..{last}"
        for name, distinct, count, first, last in rows
    ]


def _broken_counters(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT w.device, c.name, steps.seq, steps.cs, steps.place FROM ("
        " SELECT writer, seq, cs, row_number() OVER (PARTITION BY writer ORDER BY seq) AS place"
        " FROM messages) AS steps LEFT JOIN writers AS w ON w.id = steps.writer"
        " LEFT JOIN conversations AS c ON c.id = w.conversation"
        " WHERE steps.cs <> steps.place OR w.id IS NULL LIMIT ?",
        (PROBLEMS_MAX,),
    ).fetchall()
    return [
        f"device {device} in {name}: counter {cs} at sequence {seq}, expected {place}"
        for device, name, seq, cs, place in rows
    ]


def _expected_chunks(connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    """Every chunk's name, with its blob and the hash of its bytes."""
    rows = connection.execute("SELECT blob, position, digest FROM blob_chunks").fetchall()
    return {
        chunk_name(blob, position, digest): (blob, digest) for blob, position, digest in rows
    }


def _broken_chunks(folder: Path, expected: dict[str, tuple[str, str]]) -> list[str]:
    problems = []
    for name, (blob, digest) in expected.items():
        try:
            content = (folder / BLOB_FOLDER / name).read_bytes()
        except FileNotFoundError:
            problems.append(f"attachment {blob}: a chunk is missing")
            continue
        if chunk_digest(content) != digest:
            problems.append(f"attachment {blob}: a chunk has changed")
    return problems[:PROBLEMS_MAX]


def schema_version(folder: Path) -> int:
    """The schema version of the store in `folder`. Raises NotFound, SchemaMismatch."""
    _demand_store(folder)

    def work() -> int:
        with closing(connect(folder)) as connection:
            return version_of(connection)

    return _in_our_words(work)
