"""Outward calls: what is tried again, for how long, and when nothing is tried."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.errors import Forbidden, RateLimited, Unavailable
from angarium.resilience import (
    BREAKER_CALLS_MIN,
    BREAKER_OPEN_S,
    BREAKER_WINDOW_S,
    Breaker,
    classify,
    retry,
)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[Exception]]:
    pending = list(errors)

    async def call() -> str:
        if pending:
            raise pending.pop(0)
        return "answer"

    return call, pending


def sleeper() -> tuple[Callable[[float], Awaitable[None]], list[float]]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    return sleep, slept


def test_only_what_may_pass_is_tried_again() -> None:
    assert classify(Unavailable()) == classify(TimeoutError()) == "retry"
    assert classify(ConnectionResetError()) == "retry"
    assert classify(Forbidden()) == classify(KeyError()) == "stop"


def test_it_waits_longer_each_time_and_at_least_what_was_asked_for() -> None:
    async def scenario() -> None:
        call, _ = failing(Unavailable(after_ms=0), TimeoutError(), RateLimited("", 3000))
        sleep, slept = sleeper()

        assert await retry(call, wait_min_s=1, sleep=sleep, jitter=lambda: 1.0) == "answer"
        assert slept == [1.0, 2.0, 7.0]

    run(scenario())


def test_it_gives_up_after_its_attempts_with_the_last_error() -> None:
    async def scenario() -> None:
        call, pending = failing(*(TimeoutError(str(n)) for n in range(9)))
        sleep, slept = sleeper()
        with pytest.raises(TimeoutError, match="2"):
            await retry(call, attempts_max=3, sleep=sleep)

        assert len(slept) == 2
        assert len(pending) == 6

    run(scenario())


def test_a_refusal_is_not_repeated() -> None:
    async def scenario() -> None:
        call, pending = failing(Forbidden(), Forbidden())
        with pytest.raises(Forbidden):
            await retry(call, sleep=sleeper()[0])

        assert len(pending) == 1

    run(scenario())


def test_asked_to_wait_too_long_it_leaves_that_to_the_caller() -> None:
    async def scenario() -> None:
        call, _ = failing(RateLimited("", 60_000))
        sleep, slept = sleeper()
        with pytest.raises(RateLimited):
            await retry(call, wait_max_s=5, sleep=sleep)

        assert slept == []

    run(scenario())


async def opened(clock: ManualClock) -> Breaker:
    breaker = Breaker("provider", clock)
    for _ in range(BREAKER_CALLS_MIN):
        with pytest.raises(TimeoutError):
            await breaker.call(failing(TimeoutError())[0])
    assert breaker.is_open
    return breaker


def test_an_open_breaker_calls_nothing() -> None:
    async def scenario() -> None:
        breaker = await opened(ManualClock())
        call, pending = failing(TimeoutError())
        with pytest.raises(Unavailable) as refused:
            await breaker.call(call)

        assert len(pending) == 1
        assert 0 < refused.value.after_ms <= BREAKER_OPEN_S * 1000

    run(scenario())


def test_one_probe_closes_it_again_and_others_wait() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        breaker = await opened(clock)
        clock.advance(BREAKER_OPEN_S)
        go = asyncio.Event()

        async def slow() -> str:
            await go.wait()
            return "answer"

        async with asyncio.TaskGroup() as group:
            probe = group.create_task(breaker.call(slow))
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await breaker.call(slow)
            go.set()
        assert probe.result() == "answer"
        assert not breaker.is_open

    run(scenario())


def test_a_failed_probe_keeps_it_open() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        breaker = await opened(clock)
        clock.advance(BREAKER_OPEN_S)
        with pytest.raises(TimeoutError):
            await breaker.call(failing(TimeoutError())[0])
        with pytest.raises(Unavailable):
            await breaker.call(failing()[0])

    run(scenario())


def test_a_cancelled_probe_lets_the_next_call_probe() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        breaker = await opened(clock)
        clock.advance(BREAKER_OPEN_S)
        probe = asyncio.create_task(breaker.call(asyncio.Event().wait))
        await asyncio.sleep(0)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe

        assert await breaker.call(failing()[0]) == "answer"

    run(scenario())


def test_refusals_and_old_failures_do_not_open_it() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        breaker = Breaker("provider", clock)
        for _ in range(BREAKER_CALLS_MIN * 2):
            with pytest.raises(Forbidden):
                await breaker.call(failing(Forbidden())[0])
        for _ in range(BREAKER_CALLS_MIN - 1):
            with pytest.raises(TimeoutError):
                await breaker.call(failing(TimeoutError())[0])
        clock.advance(BREAKER_WINDOW_S + 1)
        with pytest.raises(TimeoutError):
            await breaker.call(failing(TimeoutError())[0])

        assert not breaker.is_open

    run(scenario())
