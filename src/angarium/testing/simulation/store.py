"""A store that answers late, fails before or after the write, or writes when nobody waits."""

import asyncio
import contextvars
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from angarium.errors import Unavailable
from angarium.storage.contract import Store
from angarium.testing.simulation.loop import Process, VirtualLoop

READS = ("find", "list", "read", "heads", "lists", "last_cs", "count")


@dataclass(slots=True)
class Illness:
    """How bad the store is. Chances are per call; times in seconds."""

    before: float = 0.0  # Unavailable, nothing happened.
    after: float = 0.0  # Unavailable, and yet it happened.
    zombie: float = 0.0  # Unavailable now; the write happens up to `late_s` later.
    slow: float = 0.0  # Answers up to `slow_s` late.
    slow_s: float = 1.5
    late_s: float = 8.0

    def heal(self) -> None:
        self.before = self.after = self.zombie = self.slow = 0.0


@dataclass(slots=True)
class StoreFigures:
    before: int = 0
    after: int = 0
    zombie: int = 0
    slow: int = 0


class FaultyPart:
    """One contract of the store, as one process sees it. A dead process changes nothing.

    `ordered`: the writer waits for a late write, as for its own thread or session. Such a write
    can outlive its writer, and it never comes after a newer one of the same writer.
    """

    def __init__(
        self,
        part: Any,
        process: Process,
        loop: VirtualLoop,
        illness: Illness,
        chance: random.Random,
        figures: StoreFigures,
        ordered: bool = False,
    ) -> None:
        self._ordered = ordered
        self._part, self._process, self._loop = part, process, loop
        self._illness, self._chance, self._figures = illness, chance, figures

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        writes = not name.startswith(READS)

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._call(lambda: method(*arguments, **named), writes)

        # Kept, so that the next call of this method finds it at once.
        setattr(self, name, call)
        return call

    async def _call(self, do: Callable[[], Any], writes: bool) -> Any:
        illness, chance = self._illness, self._chance
        self._check_alive()
        slow = chance.random() < illness.slow
        if slow:
            self._figures.slow += 1
            await asyncio.sleep(chance.uniform(0.0, illness.slow_s))
            self._check_alive()
        if chance.random() < illness.before:
            self._figures.before += 1
            raise Unavailable("simulated: the store did not take it", after_ms=50)
        if writes and chance.random() < illness.zombie:
            self._figures.zombie += 1
            late = self._write_late(do, chance.uniform(0.2, illness.late_s))
            if self._ordered:
                return await asyncio.shield(late)
            raise Unavailable("simulated: no answer in time", after_ms=50)
        answer = await do()
        if slow:
            await asyncio.sleep(chance.uniform(0.0, illness.slow_s) / 2)
        self._check_alive()
        if writes and chance.random() < illness.after:
            self._figures.after += 1
            raise Unavailable("simulated: the answer was lost", after_ms=50)
        return answer

    def _check_alive(self) -> None:
        if not self._process.alive:
            raise Unavailable("simulated: this process is dead")

    def _write_late(self, do: Callable[[], Any], delay_s: float) -> "asyncio.Task[Any]":
        async def late() -> Any:
            await asyncio.sleep(delay_s)
            return await do()

        # The request is on the wire already: it outlives its sender.
        nobody = contextvars.Context()
        task = self._loop.create_task(late(), name="zombie write", context=nobody)
        # In its context: callbacks of a process that was killed meanwhile never run.
        task.add_done_callback(_look_at, context=nobody)
        return task


def _look_at(task: "asyncio.Task[Any]") -> None:
    # Perhaps nobody waits for its answer any more.
    if not task.cancelled():
        task.exception()


def faulty(
    store: Store,
    process: Process,
    loop: VirtualLoop,
    illness: Illness,
    chance: random.Random,
    figures: StoreFigures,
) -> Store:
    """`store` as `process` meets it."""
    parts = {
        part.name: FaultyPart(
            getattr(store, part.name),
            process,
            loop,
            illness,
            chance,
            figures,
            ordered=part.name == "vault",
        )
        for part in fields(Store)
    }
    return Store(**parts)
