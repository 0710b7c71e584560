"""Writes of one device, in order, joined: whatever waits while a write runs goes out together.

An entry's future ends when it is durable. A store that is slow or full is tried again until it
takes the entry, because the ratchets in memory have already moved on.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from angarium.errors import AngariumError, Conflict, Unavailable
from angarium.limits import RECONNECT_MAX_S, RECONNECT_MIN_S
from angarium.storage.contract import Fence, Vault, Write


@dataclass(slots=True)
class Entry:
    """`first` and `last` are the program's and may conflict; `core` (ratchets, counters) may
    never be lost. They are written in the order first, core, last; after a conflict, core and
    `undo` alone.

    What comes in goes first: a ratchet that moved on cannot open the message again. What goes
    out goes last: a ciphertext that is kept while its ratchet is not would be followed by
    another one under the same key.
    """

    first: Sequence[Write]
    core: Sequence[Write]
    durable: "asyncio.Future[None]"
    last: Sequence[Write] = ()
    undo: Sequence[Write] = ()

    def writes(self) -> list[Write]:
        return [*self.first, *self.core, *self.last]


class Journal:
    """The only writer of a device's records."""

    def __init__(self, vault: Vault, fence: Fence | None) -> None:
        self._vault, self._fence = vault, fence
        self._pending: list[Entry] = []
        self._writing: Sequence[Entry] = ()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._broken: AngariumError | None = None

    def add(
        self,
        first: Sequence[Write],
        core: Sequence[Write],
        last: Sequence[Write] = (),
        undo: Sequence[Write] = (),
    ) -> "asyncio.Future[None]":
        """Queue an entry; its future raises Conflict (`core` is written all the same), Fenced,
        or Unavailable when the journal has ended."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = Entry(first, core, durable, last, undo)
        entry.durable.add_done_callback(forget_error)
        if self._broken is not None:
            entry.durable.set_exception(self._broken)
            return entry.durable
        self._pending.append(entry)
        self._idle.clear()
        self._wake.set()
        return entry.durable

    async def run(self) -> None:
        """Write what is queued, until cancelled. Whoever waits then is told."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._writing, self._pending = self._pending, []
                await self._write_batch(self._writing)
                if not self._pending:
                    self._idle.set()
        finally:
            self._break(self._writing, self._broken or Unavailable("the device is closed"))

    async def flushed(self) -> None:
        """Wait until nothing is queued."""
        await self._idle.wait()

    async def _write_batch(self, batch: Sequence[Entry]) -> None:
        try:
            await self._write([write for entry in batch for write in entry.writes()])
        except Conflict:
            for entry in batch:
                await self._write_alone(entry)
        except AngariumError as error:
            self._break(batch, error)
        else:
            for entry in batch:
                _succeed(entry)

    async def _write_alone(self, entry: Entry) -> None:
        if self._broken is not None:
            self._break([entry], self._broken)
            return
        try:
            try:
                await self._write(entry.writes())
            except Conflict as conflict:
                await self._write([*entry.core, *entry.undo])
                entry.durable.set_exception(conflict)
        except AngariumError as error:
            self._break([entry], error)
        else:
            _succeed(entry)

    async def _write(self, writes: Sequence[Write]) -> None:
        delay_s = RECONNECT_MIN_S
        while writes:
            try:
                await self._vault.write(writes, self._fence)
                return
            except AngariumError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RECONNECT_MAX_S)

    def _break(self, batch: Sequence[Entry], error: AngariumError) -> None:
        """Another owner has the device, or the store is not ours: nothing more is written."""
        self._broken = error
        for entry in [*batch, *self._pending]:
            if not entry.durable.done():
                entry.durable.set_exception(error)
        self._pending = []


def _succeed(entry: Entry) -> None:
    if not entry.durable.done():
        entry.durable.set_result(None)


def forget_error(future: "asyncio.Future[Any]") -> None:
    """An entry nobody waits for any more is no unhandled error."""
    if not future.cancelled():
        future.exception()
