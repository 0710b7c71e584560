"""Where the loop is held up."""

import asyncio
import threading
import time

from angarium.telemetry.loop_watch import LoopWatch


def hold_up(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


def test_code_that_does_not_wait_is_named_once() -> None:
    told: list[tuple[float, str]] = []

    async def scenario() -> None:
        watch = LoopWatch(lambda held_s, where: told.append((held_s, where)), bound_s=0.2)
        watch.start()
        hold_up(0.8)
        await asyncio.sleep(0)
        watch.stop()

        assert watch.blocked == 1

    asyncio.run(scenario())
    [(held_s, where)] = told
    assert held_s >= 0.2
    assert "hold_up" in where
    assert __file__ in where


def test_a_loop_that_waits_is_not_told_of_and_the_thread_ends() -> None:
    told: list[str] = []

    async def scenario() -> None:
        watch = LoopWatch(lambda held_s, where: told.append(where), bound_s=5.0)
        watch.start()
        await asyncio.sleep(0.05)
        watch.stop()

    asyncio.run(scenario())
    assert told == []
    assert "loop watch" not in {thread.name for thread in threading.enumerate()}
