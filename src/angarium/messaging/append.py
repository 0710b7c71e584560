"""The way into the log: one queue, one commit in flight, the next batch gathers meanwhile."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import msgspec

from angarium.clock import Clock
from angarium.errors import AngariumError, Busy, Unavailable
from angarium.limits import (
    APPEND_BATCH_BYTES,
    APPEND_BATCH_MESSAGES,
    APPEND_QUEUE_BYTES,
    APPEND_QUEUE_MESSAGES,
)
from angarium.messaging.connection import Connection
from angarium.messaging.figures import Figures
from angarium.model.message import AppendResult, NewMessage, NotAccepted
from angarium.protocol.frames import Send
from angarium.storage.contract import MessageLog

log_lines = logging.getLogger("angarium.messaging")


class Pending(msgspec.Struct, gc=False):
    """A message on its way into the log, and who wants to know."""

    connection: Connection
    send: Send
    message: NewMessage
    weight_bytes: int


Done = Callable[[list[Pending], list[AppendResult]], None]


class Appender:
    """Group commit without a timer: whatever waits when a commit returns is the next batch.

    `done` is called once a batch with the results, on the loop. When the store fails, every
    message of the batch is answered with that; the client holds the key and tries again.
    """

    def __init__(self, *, log: MessageLog, clock: Clock, figures: Figures, done: Done) -> None:
        self._log, self._clock, self._figures, self._done = log, clock, figures, done
        self._queue: deque[Pending] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False

    def offer(self, pending: Pending) -> None:
        """Queue it. Raises Busy when the queue is full."""
        if (
            len(self._queue) >= APPEND_QUEUE_MESSAGES
            or self._queued_bytes >= APPEND_QUEUE_BYTES
        ):
            raise Busy("the append queue is full", 250)
        self._queue.append(pending)
        self._queued_bytes += pending.weight_bytes
        self._figures.queue_messages += 1
        self._wake.set()

    def close(self) -> None:
        """Let `run` return once the queue is empty."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Commit batch after batch until closed."""
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            started_s = self._clock.monotonic_s()
            results = await self._commit([pending.message for pending in batch])
            self._figures.count_commit(len(batch), self._clock.monotonic_s() - started_s)
            self._figures.queue_messages -= len(batch)
            try:
                self._done(batch, results)
            except Exception as error:
                # A defect of ours must not stop the log: who was not answered asks again.
                log_lines.error("append.untold", extra={"error": type(error).__name__})

    def _take(self) -> list[Pending]:
        batch: list[Pending] = []
        weight_bytes = 0
        queue = self._queue
        while (
            queue and len(batch) < APPEND_BATCH_MESSAGES and weight_bytes < APPEND_BATCH_BYTES
        ):
            pending = queue.popleft()
            weight_bytes += pending.weight_bytes
            batch.append(pending)
        self._queued_bytes -= weight_bytes
        return batch

    async def _commit(self, messages: list[NewMessage]) -> list[AppendResult]:
        error: AngariumError
        try:
            results = await self._log.append(messages)
            if len(results) == len(messages):
                return results
            error = Unavailable("the store answered another number of messages")
        except AngariumError as known:
            error = known
        except Exception as unknown:
            # The relay lives on: the client repeats, and the store finds what it stored.
            log_lines.error("append.failed", extra={"error": type(unknown).__name__})
            error = Unavailable("the store failed")
        return [NotAccepted(error)] * len(messages)
