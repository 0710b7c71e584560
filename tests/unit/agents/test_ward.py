"""No agent harms another: places, breakers, quick retries, bounded floods."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from angarium.agents.agent import Agent
from angarium.agents.contract import AgentEvent, Done, Status, Text
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.errors import Busy, Forbidden, TooLarge, Unavailable
from angarium.limits import AGENT_EVENTS_MAX, AGENT_TEXT_BYTES_MAX, AGENT_TRIES
from angarium.resilience import BREAKER_CALLS_MIN, BREAKER_OPEN_S

Begin = Callable[[], AsyncIterator[AgentEvent]]


def agent(**terms: Any) -> Agent:
    return Agent("billing", "Bills", **terms)


class Scripted:
    """Each beginning takes the next script: events to give and errors to raise."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts, self.begun = list(scripts), 0

    async def __call__(self) -> AsyncIterator[AgentEvent]:
        script = self.scripts[min(self.begun, len(self.scripts) - 1)]
        self.begun += 1
        for event in script:
            if isinstance(event, BaseException):
                raise event
            yield event


async def said(ward: Ward, begin: Any, of: Agent | None = None) -> list[AgentEvent]:
    return [event async for event in ward.run(of or agent(), begin)]


def ward(clock: ManualClock | None = None, **named: Any) -> tuple[Ward, list[float]]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    made = Ward(clock or ManualClock(), sleep=sleep, jitter=lambda: 1.0, **named)
    return made, slept


def test_what_may_pass_is_begun_again_before_the_first_event() -> None:
    async def scenario() -> None:
        script = Scripted(
            [ConnectionError()], [Unavailable(after_ms=500)], [Text("hi"), Done()]
        )
        guarded, slept = ward()

        assert await said(guarded, script) == [Text("hi")]
        assert slept == [0.1, 0.7]

    asyncio.run(scenario())


def test_it_is_not_begun_again_after_the_first_event() -> None:
    async def scenario() -> None:
        script = Scripted([Status("looking"), ConnectionError()])
        guarded, slept = ward()
        with pytest.raises(ConnectionError):
            await said(guarded, script)

        assert (script.begun, slept) == (1, [])

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [Forbidden(), ValueError(), Unavailable(after_ms=60_000)])
def test_what_will_not_pass_is_not_tried_again(error: Exception) -> None:
    async def scenario() -> None:
        script = Scripted([error])
        with pytest.raises(type(error)):
            await said(ward()[0], script)

        assert script.begun == 1

    asyncio.run(scenario())


def test_tries_are_bounded() -> None:
    async def scenario() -> None:
        script = Scripted([TimeoutError()])
        with pytest.raises(TimeoutError):
            await said(ward()[0], script)

        assert script.begun == AGENT_TRIES

    asyncio.run(scenario())


async def fail(guarded: Ward, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await said(guarded, Scripted([Text("well"), ConnectionError()]))


def test_an_agent_that_keeps_failing_is_left_alone_then_probed_once() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        guarded, _ = ward(clock)
        await fail(guarded, BREAKER_CALLS_MIN)
        works = Scripted([Text("hi")])
        with pytest.raises(Unavailable):
            await said(guarded, works)
        assert (works.begun, guarded.states()) == (0, {"agent:billing": "open"})

        clock.advance(BREAKER_OPEN_S)
        assert guarded.figures()["breakers_open"] == 1
        assert await said(guarded, works) == [Text("hi")]
        assert guarded.states() == {"agent:billing": "closed"}

    asyncio.run(scenario())


def test_taking_too_long_counts_as_failing() -> None:
    async def scenario() -> None:
        guarded, _ = ward()
        for _ in range(BREAKER_CALLS_MIN):
            guarded.timed_out(agent())

        assert guarded.states() == {"agent:billing": "open"}

    asyncio.run(scenario())


def test_a_probe_that_takes_too_long_opens_it_again() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        guarded, _ = ward(clock)
        await fail(guarded, BREAKER_CALLS_MIN)
        clock.advance(BREAKER_OPEN_S)
        probe = guarded.run(agent(), Scripted([Text("one"), Text("two")]))
        await anext(probe)
        await probe.aclose()
        guarded.timed_out(agent())

        assert guarded.states() == {"agent:billing": "open"}

    asyncio.run(scenario())


def test_a_turn_that_was_stopped_says_nothing_of_its_agent() -> None:
    async def scenario() -> None:
        guarded, _ = ward()
        for _ in range(BREAKER_CALLS_MIN):
            running = guarded.run(agent(), Scripted([Text("one"), Text("two")]))
            await anext(running)
            await running.aclose()

        assert guarded.states() == {"agent:billing": "closed"}

    asyncio.run(scenario())


def test_turns_over_an_agents_places_wait_aside_in_bounded_number() -> None:
    async def scenario() -> None:
        guarded, _ = ward(waiting_max=1)
        one, done = agent(at_once=1), asyncio.Event()

        async def work() -> None:
            async with guarded.place(one):
                await done.wait()

        tasks = [asyncio.create_task(work()) for _ in range(2)]
        await asyncio.sleep(0)
        assert guarded.figures()["turns_waiting"] == 1
        with pytest.raises(Busy):
            await work()
        done.set()
        await asyncio.gather(*tasks)
        assert guarded.figures()["turns_waiting"] == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "flood",
    [
        [Status("on and on")] * (AGENT_EVENTS_MAX + 1),
        [Text("x" * AGENT_TEXT_BYTES_MAX), Text("x")],
        [Text("x" * 10 * 1024 * 1024)],
    ],
    ids=["events", "pieces", "10 MB at once"],
)
def test_a_flood_is_stopped(flood: list[AgentEvent]) -> None:
    async def scenario() -> None:
        with pytest.raises(TooLarge):
            await said(ward()[0], Scripted(flood))

    asyncio.run(scenario())


def test_a_flood_leaves_the_loop_to_others() -> None:
    async def scenario() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        await said(ward()[0], Scripted([Status("s")] * 6400))
        beside.cancel()

        assert turns >= 100

    asyncio.run(scenario())


def test_what_is_no_event_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(TypeError, match="bytes"):
            await said(ward()[0], Scripted([b"hi"]))

    asyncio.run(scenario())


def test_half_a_character_is_replaced() -> None:
    async def scenario() -> None:
        assert await said(ward()[0], Scripted([Text("a\ud800b")])) == [Text("a?b")]

    asyncio.run(scenario())


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_an_agent_that_is_replaced_has_the_places_of_the_new_one(
    before: int, after: int
) -> None:
    async def scenario() -> None:
        guarded, _ = ward()
        old, new = agent(at_once=before), agent(at_once=after)
        inside, most, leave = 0, 0, asyncio.Event()

        async def turn(one: Agent) -> None:
            nonlocal inside, most
            async with guarded.place(one):
                inside += 1
                most = max(most, inside)
                await leave.wait()
                inside -= 1

        turns = [asyncio.create_task(turn(old)) for _ in range(4)]
        await asyncio.sleep(0)
        turns += [asyncio.create_task(turn(new)) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert inside == most == 3
        most = 0
        leave.set()
        await asyncio.gather(*turns)

        assert most <= 3
        leave.clear()
        turns = [asyncio.create_task(turn(new)) for _ in range(8)]
        await asyncio.sleep(0.01)
        assert inside == after
        leave.set()
        await asyncio.gather(*turns)

    asyncio.run(scenario())


def test_an_agent_is_left_when_its_last_turn_has_neither_a_place_nor_waits_for_one() -> None:
    async def scenario() -> None:
        guarded, _ = ward()
        old, leave = agent(at_once=1), asyncio.Event()

        async def turn() -> None:
            async with guarded.place(old):
                await leave.wait()

        turns = [asyncio.create_task(turn()) for _ in range(2)]
        await asyncio.sleep(0)
        left = [asyncio.create_task(guarded.wait_left(old)) for _ in range(2)]
        turns[1].cancel()
        await asyncio.sleep(0.01)
        assert guarded.outstanding(old) == 1
        assert not left[0].done()
        leave.set()

        await asyncio.gather(*left, *turns, return_exceptions=True)
        assert guarded.outstanding(old) == 0

    asyncio.run(scenario())
