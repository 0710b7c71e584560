"""The embedded store, put together: `open_sqlite` is its only way in."""

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from angarium.clock import Clock
from angarium.errors import StoreUnwritable
from angarium.storage.blobs import FileBlobs
from angarium.storage.chunks import ChunkFolder, ChunkMemory, Chunks
from angarium.storage.contract import Store
from angarium.storage.schema import check_version, demand_whole, upgrade, version_of
from angarium.storage.sqlite.appender import Appender
from angarium.storage.sqlite.checkpoints import Checkpoints
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.connection import connect, connect_memory, translate
from angarium.storage.sqlite.conversations import SqliteConversations, SqliteReceipts
from angarium.storage.sqlite.directory import SqliteDirectory
from angarium.storage.sqlite.guards import ALL_GUARDS, Guards
from angarium.storage.sqlite.inbox import SqliteAudit, SqliteCommands, SqliteWebhooks
from angarium.storage.sqlite.lanes import Lane
from angarium.storage.sqlite.log import SqliteLog
from angarium.storage.sqlite.vault import SqliteLeases, SqliteVault
from angarium.storage.sqlite.work import SqliteOutbox, SqliteTurns

BLOB_FOLDER = "blobs"
_INLINE_AUTOCHECKPOINT_PAGES = 1000


@dataclass(slots=True)
class _Place:
    """The database in memory that several store objects share; closed with the last."""

    folder: Path | None
    inline: bool
    lane: Lane | None
    chunks: Chunks
    users: int = 0


class SqliteStore:
    """All contracts over one SQLite file, or over a private database in memory.

    Made by `open_sqlite` or `second`. `store` is what the product uses.
    """

    cluster = ""  # One process serves it.

    def __init__(
        self,
        place: _Place,
        clock: Clock,
        guards: Guards,
        writer: Lane,
        reads: Lane,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._place = place
        self.clock = clock
        self._guards = guards
        self._writer = writer
        self._reads = reads
        self._checkpoints = checkpoints
        self._closed = False
        place.users += 1
        commits = Commits(writer, Appender(clock, guards), self._committed)
        self._commits = commits
        self.store = Store(
            log=SqliteLog(commits, reads, clock),
            conversations=SqliteConversations(commits, reads),
            receipts=SqliteReceipts(commits, reads),
            directory=SqliteDirectory(commits, reads),
            vault=SqliteVault(commits, reads, guards.fencing),
            turns=SqliteTurns(commits, reads),
            outbox=SqliteOutbox(reads),
            leases=SqliteLeases(commits, guards.fencing),
            webhooks=SqliteWebhooks(commits, reads),
            audit=SqliteAudit(commits, reads),
            commands=SqliteCommands(commits, reads),
            blobs=FileBlobs(commits, reads, place.chunks),
        )

    async def second(self) -> "SqliteStore":
        """Another store object over the same data with caches of its own, as a second node
        would have. Close each."""
        return await _open(self._place, self.clock, self._guards)

    async def check(self) -> None:
        """Prove that the store works now: a durable write, then a read that sees it.

        Raises Unavailable, DiskFull or StoreUnwritable.
        """
        now_ms = self.clock.now_ms()

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO meta (name, value) VALUES ('checked_ms', ?)", (now_ms,)
            )

        def read(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute(
                    "SELECT value FROM meta WHERE name = 'checked_ms'"
                ).fetchone()
                is not None
            )

        await self._commits.write(write)
        if not await self._reads.read(read):
            raise StoreUnwritable("the store does not show what was written to it")

    def figures(self) -> dict[str, int]:
        """Counters since opening, and what waits now; for metrics."""
        tally = self._commits.tally
        return {
            "commits": tally.commits,
            "commit_failures": tally.failures,
            "commit_parts": tally.parts,
            "messages": tally.messages,
            "writes_waiting": self._commits.waiting,
            "reads_waiting": self._reads.waiting,
            "wal_bytes": self._checkpoints.log_bytes if self._checkpoints else 0,
            "checkpoints": self._checkpoints.runs if self._checkpoints else 0,
        }

    async def close(self) -> None:
        """Finish what was begun, empty the write-ahead log, close. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        self._commits.closing = True  # No further round holds the last commits.
        if self._checkpoints is not None:
            await self._checkpoints.settle()
        await self._commits.close()
        self._place.users -= 1
        if self._checkpoints is not None:
            await self._checkpoints.close()
        if self._place.folder is not None or not self._place.users:
            await _close_lanes(self._writer, self._reads)
        if not self._place.users:
            self._place.chunks.close()

    def _committed(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.after_commit(self._commits)


async def open_sqlite(
    folder: Path | None, clock: Clock, *, inline: bool = False, guards: Guards = ALL_GUARDS
) -> SqliteStore:
    """Open the store in `folder`, creating it when there is none; None: private, in memory.

    `inline` runs every statement on the event loop, without threads: for simulations. `guards`
    is for tests only. Raises SchemaMismatch, StoreUnwritable, DiskFull or Unavailable.
    """
    if folder is None:
        lane = Lane(connect_memory(), "store", inline=inline)
        place = _Place(None, inline, lane, ChunkMemory())
    else:
        place = _Place(folder, inline, None, ChunkFolder(folder / BLOB_FOLDER, inline=inline))
    return await _open(place, clock, guards)


async def _open(place: _Place, clock: Clock, guards: Guards) -> SqliteStore:
    if place.lane is not None:
        lane = place.lane
        await lane.read(lambda connection: _prepare(connection, clock.now_ms(), guards))
        return SqliteStore(place, clock, guards, lane, lane, None)
    folder = place.folder
    assert folder is not None  # noqa: S101
    pages = _INLINE_AUTOCHECKPOINT_PAGES if place.inline else 0
    now_ms = clock.now_ms()

    def connect_both() -> tuple[sqlite3.Connection, sqlite3.Connection]:
        writer = connect(folder, autocheckpoint_pages=pages)
        try:
            _prepare(writer, now_ms, guards)
            return writer, connect(folder)
        except sqlite3.Error as error:
            writer.close()
            raise translate(error) from None
        except BaseException:
            writer.close()
            raise

    if place.inline:
        writer, reader = connect_both()
    else:
        writer, reader = await asyncio.to_thread(connect_both)
    reader.execute("PRAGMA query_only=ON").fetchone()
    return SqliteStore(
        place,
        clock,
        guards,
        Lane(writer, "writer", inline=place.inline),
        Lane(reader, "reader", inline=place.inline),
        None if place.inline else Checkpoints(folder),
    )


def _prepare(connection: sqlite3.Connection, now_ms: int, guards: Guards) -> None:
    if not version_of(connection):
        upgrade(connection, now_ms)
    check_version(connection)
    demand_whole(connection)
    if not guards.unique_sequence:
        _weaken(connection, "messages_by_sequence", "conversation, seq")
    if not guards.unique_key:
        _weaken(connection, "messages_by_key", "writer, key")
        _weaken(connection, "messages_by_counter", "writer, cs")


def _weaken(connection: sqlite3.Connection, index: str, columns: str) -> None:
    connection.execute(f"DROP INDEX {index}")
    connection.execute(f"CREATE INDEX {index} ON messages ({columns})")


async def _close_lanes(*lanes: Lane) -> None:
    for lane in dict.fromkeys(lanes):
        if lane.inline:
            lane.close()
        else:
            await asyncio.to_thread(lane.close)
