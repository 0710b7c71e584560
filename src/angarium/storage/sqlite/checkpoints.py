"""Keeps the write-ahead log short, beside the writer and never inside a commit."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from angarium.limits import STORE_WAL_BYTES_MAX, STORE_WAL_CHECKPOINT_BYTES
from angarium.storage.sqlite.connection import FILE_NAME, connect

_FORCED_WAIT_MS = 500  # How long a forced emptying waits for the writer and readers.
_LOOK_EVERY = 64  # Commits between two looks at the log's size.


class Checkpoints:
    """Copies the log back when it is long; empties it when idle, at the bound, and at close.

    A copy runs on a connection and thread of its own, so a commit never waits for it. Only at
    STORE_WAL_BYTES_MAX does emptying take the write lock from the writer for a moment.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = 0
        self._log = folder / f"{FILE_NAME}-wal"
        self._connection = connect(folder)
        self._executor = ThreadPoolExecutor(1, "angarium-checkpoint")
        self._running: asyncio.Future[None] | None = None
        self._commits = 0

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log; 0 when there is none."""
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def after_commit(self, *, idle: bool) -> None:
        """Called on the loop after each commit; starts a copy when one is due."""
        self._commits += 1
        if self._running is not None or not (idle or self._commits % _LOOK_EVERY == 0):
            return
        size = self.log_bytes
        if size < STORE_WAL_CHECKPOINT_BYTES:
            return
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(self._executor, self._checkpoint, idle, size)
        self._running.add_done_callback(self._settle)

    async def close(self) -> None:
        """Empty the log if nobody else uses the file, then close."""
        if self._running is not None:
            await asyncio.wait([self._running])
        await asyncio.get_running_loop().run_in_executor(
            self._executor, self._checkpoint, True, 0
        )
        self._executor.shutdown(wait=True)
        self._connection.close()

    def _settle(self, done: asyncio.Future[None]) -> None:
        self._running = None
        if not done.cancelled():
            done.exception()  # A full disk: the next commit meets it too, and tells its caller.

    def _checkpoint(self, idle: bool, size: int) -> None:
        forced = size >= STORE_WAL_BYTES_MAX
        try:
            self._connection.execute("PRAGMA busy_timeout=0")
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self.runs += 1
            if idle or forced:
                self._connection.execute(
                    f"PRAGMA busy_timeout={_FORCED_WAIT_MS if forced else 0}"
                )
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            # Busy: another process copies. What was not copied now is copied the next time.
            return
