"""Keeps the write-ahead log short, beside the writer and never inside a commit."""

import asyncio
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from angarium.limits import STORE_WAL_BYTES_MAX, STORE_WAL_CHECKPOINT_BYTES
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.connection import FILE_NAME, connect

_READERS_WAIT_MS = 20
_OPEN_FILES = (Path("/proc/self/fd"), Path("/dev/fd"))
_READERS_WAIT_LONG_MS = 500  # Beyond the bound: a long reader slows writers, not stops them.


class Checkpoints:
    """Copies the log back when it is long, then empties it.

    The copy runs on a connection and thread of its own, beside commits, and so does the sync
    that makes it durable: SQLite leaves that out while somebody writes. What arrived meanwhile
    is little; for that, commits are held for a moment, since a log under constant writes never
    begins again by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = 0
        self._file, self._log = folder / FILE_NAME, folder / f"{FILE_NAME}-wal"
        self._open_file = -1
        self._connection = connect(folder)
        self._executor = ThreadPoolExecutor(1, "angarium-checkpoint")
        self._running: asyncio.Task[None] | None = None

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log; 0 when there is none."""
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def after_commit(self, commits: Commits) -> None:
        """Called on the loop after each commit; starts a round when one is due."""
        if commits.closing or self._running is not None:
            return
        if self.log_bytes >= STORE_WAL_CHECKPOINT_BYTES:
            self._running = asyncio.create_task(self._round(commits))

    async def settle(self) -> None:
        """Wait for the round that runs, if any."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def close(self) -> None:
        """Empty the log unless another process uses the file, then close."""
        await self.settle()
        await self._run("TRUNCATE", 0)
        self._executor.shutdown(wait=True)
        self._connection.close()

    async def _round(self, commits: Commits) -> None:
        try:
            await self._run("PASSIVE", 0)
            await asyncio.get_running_loop().run_in_executor(self._executor, self._sync)
            long = self.log_bytes >= STORE_WAL_BYTES_MAX
            await commits.hold()
            try:
                await self._run("TRUNCATE", _READERS_WAIT_LONG_MS if long else _READERS_WAIT_MS)
            finally:
                commits.release()
            self.runs += 1
        finally:
            self._running = None

    async def _run(self, mode: str, wait_ms: int) -> None:
        await asyncio.get_running_loop().run_in_executor(
            self._executor, self._checkpoint, mode, wait_ms
        )

    def _checkpoint(self, mode: str, wait_ms: int) -> None:
        try:
            self._connection.execute(f"PRAGMA busy_timeout={wait_ms}").fetchone()
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.OperationalError:
            # Busy, or a full disk: nothing is lost, and the next commit tells its caller.
            return

    def _sync(self) -> None:
        """Sync the database, so that little is left to do while commits are held.

        Through a descriptor that SQLite itself has open: closing one of our own would drop the
        locks of the whole process on the file. Without it commits only wait longer.
        """
        try:
            wanted = self._file.stat()
            if not _is_open(self._open_file, wanted):
                self._open_file = _find_open(wanted)
            if self._open_file >= 0:
                os.fdatasync(self._open_file)
        except OSError:
            return  # The checkpoint that follows syncs by itself.


def _is_open(descriptor: int, wanted: os.stat_result) -> bool:
    try:
        return descriptor >= 0 and os.path.samestat(os.fstat(descriptor), wanted)
    except OSError:
        return False


def _find_open(wanted: os.stat_result) -> int:
    """A descriptor of this process for the file; -1: none is found."""
    for folder in _OPEN_FILES:
        if folder.is_dir():
            numbers = (int(name) for name in os.listdir(folder))
            return next((each for each in numbers if _is_open(each, wanted)), -1)
    return -1
