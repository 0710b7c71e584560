"""The virtual loop: time jumps, seeds replay, processes die."""

import asyncio

import pytest

from angarium.testing.simulation.loop import (
    LoopClock,
    Process,
    Stuck,
    VirtualLoop,
    current_process,
    run,
)


def test_an_hour_passes_at_once_and_exactly() -> None:
    async def scenario(loop: VirtualLoop) -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert run(1, scenario) == pytest.approx(3600, abs=1e-5)


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def scenario(loop: VirtualLoop) -> list[int]:
        fired: list[int] = []
        for delay in (3, 1, 2):
            loop.call_later(delay, fired.append, delay)
        await asyncio.sleep(5)
        return fired

    assert run(1, scenario) == [1, 2, 3]


def test_waiting_for_what_nobody_will_do_is_named() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck, match="scenario"):
        run(1, scenario)


async def order_of_ten(loop: VirtualLoop) -> list[int]:
    order: list[int] = []

    async def note(n: int) -> None:
        await asyncio.sleep(0)
        order.append(n)

    async with asyncio.TaskGroup() as group:
        for n in range(10):
            group.create_task(note(n))
    return order


def test_a_seed_replays_the_order_of_tasks_and_other_seeds_differ() -> None:
    orders = {seed: run(seed, order_of_ten) for seed in range(5)}

    assert all(run(seed, order_of_ten) == order for seed, order in orders.items())
    assert len({tuple(order) for order in orders.values()}) > 1
    assert run(None, order_of_ten) == list(range(10))


def test_a_killed_process_does_nothing_more_and_others_go_on() -> None:
    async def scenario(loop: VirtualLoop) -> list[str]:
        done: list[str] = []

        async def work(name: str) -> None:
            loop.call_later(2, done.append, f"timer {name}")
            await asyncio.sleep(2)
            done.append(name)

        one, other = Process("one"), Process("other")
        loop.start(one, work("one"))
        loop.start(other, work("other"))
        await asyncio.sleep(1)
        loop.kill(one)
        await asyncio.sleep(5)
        assert not one.alive
        assert not one.tasks
        return sorted(done)

    assert run(7, scenario) == ["other", "timer other"]


def test_a_paused_process_stands_still_and_goes_on_where_it_was() -> None:
    async def scenario(loop: VirtualLoop) -> list[tuple[str, int]]:
        noted: list[tuple[str, int]] = []

        async def tick() -> None:
            for n in range(4):
                noted.append(("tick", int(loop.time() + 0.6)))
                await asyncio.sleep(1 if n < 3 else 0)

        process = Process("zombie")
        loop.start(process, tick())
        await asyncio.sleep(1.5)
        loop.pause(process)
        loop.enter(process, lambda: noted.append(("heard", int(loop.time() + 0.6))))
        await asyncio.sleep(10)
        loop.resume(process)
        await asyncio.sleep(5)
        return noted

    noted = run(3, scenario)
    assert noted[:2] == [("tick", 0), ("tick", 1)]
    assert sorted(noted[2:]) == [("heard", 12), ("tick", 12), ("tick", 13)]


def test_what_a_process_starts_belongs_to_it() -> None:
    async def scenario(loop: VirtualLoop) -> list[str]:
        found: list[str] = []

        async def child() -> None:
            process = current_process()
            assert process is not None
            found.append(process.name)

        async def parent() -> None:
            await asyncio.create_task(child())

        await loop.start(Process("node"), parent())
        return found

    assert run(1, scenario) == ["node"]


def test_an_error_nobody_looked_at_is_kept_for_the_judge() -> None:
    async def scenario(loop: VirtualLoop) -> list[str]:
        def fails() -> None:
            raise ValueError("lost")

        loop.call_soon(fails)
        await asyncio.sleep(1)
        return loop.unhandled

    assert "lost" in run(1, scenario)[0]


def test_a_skewed_clock_is_wrong_by_its_skew_and_right_in_durations() -> None:
    async def scenario(loop: VirtualLoop) -> tuple[int, float]:
        right, wrong = LoopClock(loop), LoopClock(loop, skew_ms=-600_000)
        start = wrong.monotonic_s()
        await asyncio.sleep(10)
        return wrong.now_ms() - right.now_ms(), wrong.monotonic_s() - start

    skew, duration = run(1, scenario)
    assert skew == -600_000
    assert duration == pytest.approx(10, abs=1e-5)
