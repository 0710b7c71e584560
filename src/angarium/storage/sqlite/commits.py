"""Group commit: one commit in flight; whatever arrives meanwhile is joined into the next.

No timer decides the size of a group: a slow disk makes larger groups, an idle one commits at
once. The parts of a group fail alone: a part that refuses before it changed anything costs
nothing; after one that refuses late, the group runs again with a savepoint around each part.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from angarium.errors import AngariumError, Busy, Unavailable
from angarium.limits import APPEND_BATCH_MESSAGES, APPEND_QUEUE_MESSAGES
from angarium.model.message import AppendResult, NewMessage
from angarium.storage.sqlite.appender import Appender
from angarium.storage.sqlite.connection import translate
from angarium.storage.sqlite.lanes import Lane, Work

T = TypeVar("T")


@dataclass(slots=True)
class _Part:
    """What one caller wants in a commit: work of its own, or messages to append."""

    work: Work[Any] | None = None
    messages: Sequence[NewMessage] = ()
    waiter: asyncio.Future[Any] | None = None
    result: Any = None
    error: BaseException | None = None

    @property
    def weight(self) -> int:
        return max(1, len(self.messages))


class _RefusedLate(Exception):
    """A part failed after it had changed something: the group must run again, carefully."""


@dataclass(slots=True)
class Tally:
    """Figures since start, for metrics."""

    commits: int = 0
    parts: int = 0
    messages: int = 0
    failures: int = 0


@dataclass(slots=True)
class Commits:
    """The only way to write. `on_commit` is called on the loop after each commit."""

    lane: Lane
    appender: Appender
    on_commit: Callable[[], None]
    tally: Tally = field(default_factory=Tally)
    _waiting: deque[_Part] = field(default_factory=deque)
    _weight: int = 0
    _running: asyncio.Future[None] | None = None
    _held: bool = False
    closing: bool = False

    @property
    def waiting(self) -> int:
        """Parts that wait, by weight (a message weighs one)."""
        return self._weight

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a commit and return its result once that is durable.

        Raises what `work` raised (then nothing of it is stored), Busy when too much waits, and
        Unavailable, DiskFull or StoreUnwritable when the commit failed.
        """
        part = _Part(work=work)
        await self._submit(part)
        return part.result  # type: ignore[no-any-return]

    async def append(self, messages: Sequence[NewMessage]) -> list[AppendResult]:
        """Append in a commit; all messages of a group share their statements."""
        if not messages:
            return []
        part = _Part(messages=messages)
        await self._submit(part)
        return part.result  # type: ignore[no-any-return]

    async def hold(self) -> None:
        """Start no further commit and wait for the one in flight. End it with `release`."""
        self._held = True
        if self._running is not None:
            await asyncio.wait([self._running])

    def release(self) -> None:
        """Go on after `hold`."""
        self._held = False
        self._pump()

    async def close(self) -> None:
        """Take nothing new and finish what waits. Do not call while held."""
        self.closing = True
        while self._running is not None:
            await asyncio.wait([self._running])
            await asyncio.sleep(0)  # Lets the next group begin.

    async def _submit(self, part: _Part) -> None:
        if self.closing or self.lane.closed:
            raise Unavailable("the store is closed")
        if self._weight + part.weight > max(APPEND_QUEUE_MESSAGES, part.weight):
            raise Busy("too many writes wait for the store", after_ms=200)
        if self.lane.executor is None:
            self._commit([part])
            self.on_commit()
        else:
            part.waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(part)
            self._weight += part.weight
            self._pump()
            # A caller that is cancelled leaves its part in the queue: writes may happen twice,
            # and may happen unseen, but a group is never torn.
            await part.waiter
        if part.error is not None:
            raise part.error

    def _pump(self) -> None:
        if self._running is not None or self._held or not self._waiting:
            return
        group = [self._waiting.popleft()]
        weight = group[0].weight
        while self._waiting and weight + self._waiting[0].weight <= APPEND_BATCH_MESSAGES:
            weight += self._waiting[0].weight
            group.append(self._waiting.popleft())
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(self.lane.executor, self._commit, group)
        self._running.add_done_callback(lambda done: self._settle(done, group, weight))

    def _settle(self, done: asyncio.Future[None], group: list[_Part], weight: int) -> None:
        failed = None if done.cancelled() else done.exception()
        self._running = None
        self._weight -= weight
        for part in group:
            part.error = failed or part.error
            if part.waiter is not None and not part.waiter.done():
                part.waiter.set_result(None)
        self.on_commit()
        self._pump()

    # --- on the writer's thread ---

    def _commit(self, group: list[_Part]) -> None:
        """Run a group; every part ends with a result or an error."""
        try:
            try:
                self._run(group, careful=False)
            except _RefusedLate:
                self._run(group, careful=True)
            self.tally.commits += 1
            self.tally.parts += len(group)
        except sqlite3.Error as error:
            self.tally.failures += 1
            for part in group:
                part.error = translate(error)

    def _run(self, group: list[_Part], *, careful: bool) -> None:
        connection = self.lane.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not careful:
                self._append_all(connection, group)
            for part in group:
                if part.work is not None:
                    self._run_part(connection, part, part.work, careful=careful)
                elif careful:
                    self._run_part(connection, part, self._append_of(part), careful=True)
            connection.execute("COMMIT")
        except BaseException:
            self.appender.forget()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _append_all(self, connection: sqlite3.Connection, group: list[_Part]) -> None:
        batch = [message for part in group for message in part.messages]
        if not batch:
            return
        try:
            results = self.appender.append(connection, batch)
        except sqlite3.Error:
            raise
        except Exception as error:
            # A message that cannot even be bound: find out which, and spare its neighbours.
            raise _RefusedLate from error
        self.tally.messages += len(batch)
        start = 0
        for part in group:
            if part.work is None:
                part.result = results[start : start + len(part.messages)]
                start += len(part.messages)

    def _append_of(self, part: _Part) -> Work[list[AppendResult]]:
        return lambda connection: self.appender.append(connection, part.messages)

    def _run_part(
        self, connection: sqlite3.Connection, part: _Part, work: Work[Any], *, careful: bool
    ) -> None:
        before = connection.total_changes
        if careful:
            connection.execute("SAVEPOINT part")
        try:
            part.result, part.error = work(connection), None
        except sqlite3.Error as error:
            if not isinstance(error, sqlite3.IntegrityError):
                raise
            part.error = translate(error)
        except AngariumError as error:
            part.error = error
        except Exception as error:
            # A fault of ours or of the caller's: it is theirs alone, the group goes on.
            part.error = error
        if part.error is not None and not careful and connection.total_changes != before:
            raise _RefusedLate
        if careful:
            if part.error is not None:
                self.appender.forget()
                connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
