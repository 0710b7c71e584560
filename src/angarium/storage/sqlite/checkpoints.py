"""Keeps the write-ahead log short, beside the writer and never inside a commit."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from angarium.limits import STORE_WAL_BYTES_MAX, STORE_WAL_CHECKPOINT_BYTES
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.connection import FILE_NAME, connect

_READERS_WAIT_MS = 20
_READERS_WAIT_LONG_MS = 500  # Beyond the bound: a long reader slows writers, not stops them.


class Checkpoints:
    """Copies the log back when it is long, then empties it.

    The copy runs on a connection and thread of its own, beside commits. What arrived meanwhile
    is little; for that, commits are held for a moment, since a log under constant writes never
    begins again by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = 0
        self._log = folder / f"{FILE_NAME}-wal"
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
