"""The embedded store as one end of a copy."""

import asyncio
import json
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from angarium.clock import Clock
from angarium.errors import (
    NotFound,
    StoreInUse,
    StoreNotEmpty,
    StoreUnwritable,
    Unavailable,
)
from angarium.limits import COPY_BATCH_BYTES
from angarium.storage.chunks import chunk_digest, chunk_name
from angarium.storage.files import translate_os, write_durably
from angarium.storage.schema import check_version, demand_whole, unfinished, upgrade, version_of
from angarium.storage.sqlite.connection import FILE_NAME, connect, translate
from angarium.storage.sqlite.rows import TABLES
from angarium.storage.transfer import (
    KINDS,
    ChunkRow,
    Page,
    Progress,
    Row,
    decode_progress,
    encode_progress,
    row_bytes,
)

T = TypeVar("T")
_IDENTITY_BITS = 62
_CHECKPOINT_PAGES = 1000
BLOB_FOLDER = "blobs"


class SqliteTransfer:
    """See storage.transfer.Target. Close it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._open: sqlite3.Connection | None = None

    # --- the end that is read ---

    async def rest(self, now_ms: int) -> int:
        return await self._run(self._rest)

    def _rest(self) -> int:
        connection = self._existing()
        demand_whole(connection)
        _lock(connection)
        found = connection.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
        if found is None:
            found = (secrets.randbits(_IDENTITY_BITS),)
            connection.execute("INSERT INTO meta (name, value) VALUES ('identity', ?)", found)
            connection.execute("COMMIT")
            _lock(connection)
        return int(found[0])

    async def read(self, kind: str, after: str, rows_max: int) -> Page:
        return await self._run(lambda: self._read(self._existing(), kind, after, rows_max))

    def _read(
        self, connection: sqlite3.Connection, kind: str, after: str, rows_max: int
    ) -> Page:
        table = TABLES[kind]
        place: Sequence[Any] = json.loads(after) if after else table.start
        rows: list[Row] = []
        size = 0
        found = connection.execute(table.select, (*place, rows_max))
        for values in found:
            built = table.build(*values)
            row: Row = self._chunk(*built) if kind == "chunks" else built
            rows.append(row)
            place = values[: len(table.start)]
            size += row_bytes(row)
            if size >= COPY_BATCH_BYTES:
                break
        found.close()
        return Page(rows, json.dumps(place))

    def _chunk(self, blob: str, position: int, digest: str) -> ChunkRow:
        try:
            path = self._folder / BLOB_FOLDER / chunk_name(blob, position, digest)
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        if chunk_digest(content) != digest:
            raise StoreUnwritable("an attachment has lost its bytes; run `angarium db check`")
        return ChunkRow(blob, position, digest, content)

    # --- the end that is written ---

    async def begin(self, source: int) -> Progress:
        return await self._run(lambda: self._begin(source))

    def _begin(self, source: int) -> Progress:
        connection = self._connected()
        if not version_of(connection):
            upgrade(connection, self._clock.now_ms())
        check_version(connection)
        connection.execute("BEGIN IMMEDIATE")
        text = unfinished(connection)
        if text is not None:
            connection.execute("ROLLBACK")
            progress = decode_progress(text)
            if progress.source != source:
                raise StoreNotEmpty("a copy of another store was begun here and not finished")
            return progress
        if any(self._read(connection, kind, "", 1).rows for kind in KINDS):
            connection.execute("ROLLBACK")
            raise StoreNotEmpty(
                "the store to be filled holds data; choose an empty one, or compare with"
                " `--check` if it is a copy that was finished"
            )
        progress = Progress(source)
        connection.execute("CREATE TABLE copying (progress TEXT NOT NULL)")
        connection.execute("INSERT INTO copying VALUES (?)", (encode_progress(progress),))
        connection.execute("COMMIT")
        return progress

    async def write(self, kind: str, rows: Sequence[Row], progress: Progress) -> None:
        await self._run(lambda: self._write(kind, rows, progress))

    def _write(self, kind: str, rows: Sequence[Row], progress: Progress) -> None:
        for row in rows:
            if isinstance(row, ChunkRow):
                name = chunk_name(row.blob, row.position, row.digest)
                write_durably(self._folder / BLOB_FOLDER / name, row.content)
        first = progress.of(kind).rows - len(rows) + 1
        connection = self._existing()
        with _transaction(connection):
            try:
                TABLES[kind].write(connection, first, rows)
            except KeyError:
                raise StoreUnwritable(
                    "the source names a conversation that it does not have; "
                    "run `angarium db check` there"
                ) from None
            connection.execute("UPDATE copying SET progress = ?", (encode_progress(progress),))

    async def finish(self) -> None:
        await self._run(self._finish)

    def _finish(self) -> None:
        connection = self._existing()
        with _transaction(connection):
            connection.execute("DROP TABLE copying")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    async def drop(self) -> None:
        await self._run(self._drop)

    def _drop(self) -> None:
        if not (self._folder / FILE_NAME).is_file() or unfinished(self._connected()) is None:
            return
        self._disconnect()
        shutil.rmtree(self._folder / BLOB_FOLDER, ignore_errors=True)
        # The file that says whose the rest is goes last.
        for ending in ("-wal", "-shm", ""):
            (self._folder / f"{FILE_NAME}{ending}").unlink(missing_ok=True)

    # --- connection ---

    async def close(self) -> None:
        await self._run(self._disconnect)

    def _disconnect(self) -> None:
        connection, self._open = self._open, None
        if connection is not None:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()

    def _existing(self) -> sqlite3.Connection:
        if self._open is None:
            if not (self._folder / FILE_NAME).is_file():
                raise NotFound(f"there is no store in {self._folder}")
            check_version(self._connected())
        return self._connected()

    def _connected(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = connect(self._folder, autocheckpoint_pages=_CHECKPOINT_PAGES)
        return self._open

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise translate(error) from None
        except OSError as error:
            raise translate_os(error) from None


def _lock(connection: sqlite3.Connection) -> None:
    """Nobody else writes until the connection is closed: no key is taken after it was copied.

    Raises StoreInUse.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if isinstance(translate(error), Unavailable):
            raise StoreInUse("another process writes to the store; stop it") from None
        raise


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
