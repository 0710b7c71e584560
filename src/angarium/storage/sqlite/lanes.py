"""Lanes: one connection and the one thread that may use it, or no thread at all (`inline`)."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from angarium.errors import Busy, Unavailable
from angarium.limits import STORE_CALLS_WAITING_MAX
from angarium.storage.sqlite.connection import translate

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Lane:
    """Runs work on a connection, one piece at a time, in order of arrival."""

    def __init__(self, connection: sqlite3.Connection, name: str, *, inline: bool) -> None:
        self.connection = connection
        self.inline = inline
        self.waiting = 0
        self.closed = False
        self.executor = None if inline else ThreadPoolExecutor(1, f"angarium-{name}")

    async def read(self, work: Work[T]) -> T:
        """The result of `work`, which only reads. Raises Busy, Unavailable."""
        if self.closed:
            raise Unavailable("the store is closed")
        if self.waiting >= STORE_CALLS_WAITING_MAX:
            raise Busy("too many reads wait for the store", after_ms=200)
        self.waiting += 1
        try:
            if self.executor is None:
                return work(self.connection)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.executor, work, self.connection)
        except sqlite3.Error as error:
            raise translate(error) from None
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Wait for the work begun, then close the connection."""
        self.closed = True
        if self.executor is not None:
            self.executor.shutdown(wait=True)
        self.connection.close()
