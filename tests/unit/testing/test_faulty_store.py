"""The faulty store: what failed may or may not have happened, what is dead writes nothing."""

import asyncio
import contextvars
import gc

import pytest

from angarium.errors import LeaseTaken, Unavailable
from angarium.testing.simulation.loop import Process, VirtualLoop, dice, run
from angarium.testing.simulation.store import FaultyPart, Illness, StoreFigures


class Counter:
    def __init__(self) -> None:
        self.value = 0

    async def put(self, step: int) -> int:
        self.value += step
        return self.value

    async def read(self) -> int:
        return self.value


def play(illness: Illness) -> tuple[list[str], int, int]:
    """What ten writes told, and the value just after and much later."""

    async def scenario(loop: VirtualLoop) -> tuple[list[str], int, int]:
        counter, told = Counter(), []
        part = FaultyPart(
            counter, Process("node"), loop, illness, dice(1, "store"), StoreFigures()
        )
        for _ in range(10):
            try:
                await part.put(1)
                told.append("stored")
            except Unavailable:
                told.append("unavailable")
        at_once = counter.value
        await asyncio.sleep(60)
        return told, at_once, counter.value

    return run(1, scenario)


def test_a_healthy_store_is_left_alone() -> None:
    assert play(Illness()) == (["stored"] * 10, 10, 10)


def test_a_refused_write_never_happens() -> None:
    assert play(Illness(before=1.0)) == (["unavailable"] * 10, 0, 0)


def test_a_lost_answer_hides_a_write_that_happened() -> None:
    assert play(Illness(after=1.0)) == (["unavailable"] * 10, 10, 10)


def test_a_zombie_write_happens_later() -> None:
    told, at_once, later = play(Illness(zombie=1.0))

    assert told == ["unavailable"] * 10
    assert (at_once, later) == (0, 10)


def test_a_slow_store_answers_all_the_same() -> None:
    assert play(Illness(slow=1.0)) == (["stored"] * 10, 10, 10)


def test_a_dead_process_writes_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> int:
        counter, process = Counter(), Process("node")
        part = FaultyPart(counter, process, loop, Illness(), dice(1, "store"), StoreFigures())
        loop.kill(process)
        with pytest.raises(Unavailable):
            await part.put(1)
        return counter.value

    assert run(1, scenario) == 0


def test_the_failure_of_a_late_write_whose_sender_just_died_is_nobodys_error() -> None:
    async def scenario(loop: VirtualLoop) -> list[str]:
        process = Process("node")

        class Refusing:
            async def put(self, step: int) -> int:
                loop.call_soon(loop.kill, process, context=contextvars.Context())
                raise LeaseTaken("another owner holds the lease")

        part = FaultyPart(
            Refusing(), process, loop, Illness(zombie=1.0), dice(1, "store"), StoreFigures(),
            ordered=True,
        )  # fmt: skip

        async def send() -> None:
            await part.put(1)

        loop.start(process, send())
        await asyncio.sleep(60)
        gc.collect()
        return loop.unhandled

    assert run(1, scenario) == []
