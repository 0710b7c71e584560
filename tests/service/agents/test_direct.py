"""Agents answer requests outside of conversations."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from angarium.agents.agent import Agent
from angarium.agents.contract import AgentEvent, Done, Handoff, Person, Status, Text, Usage
from angarium.agents.direct import Asked, DirectEvent, DirectRunner
from angarium.agents.ledger import Journal
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.errors import (
    AgentFailed,
    AgentTimedOut,
    BadReply,
    Busy,
    Forbidden,
    NotFound,
    OverBudget,
    RateLimited,
    ReplyCutOff,
    TooLarge,
    Unavailable,
)
from angarium.limits import (
    DIRECT_HISTORY_MAX,
    DIRECT_RUNS_PER_PERSON_MAX,
    TURN_TEXT_CHARS_MAX,
)
from angarium.resilience import BREAKER_CALLS_MIN

ADA = Person("@ada:x", "Ada")


async def no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


def made(*functions: Any, terms: dict[str, Any] | None = None, **named: Any) -> DirectRunner:
    """A runner of agents named like their functions."""
    agents = []
    for function in functions:
        agent = Agent(function.__name__, "Does", **(terms or {}))
        agent.on_turn(function)
        agents.append(agent)
    clock = ManualClock()
    return DirectRunner(Registry(agents), Ward(clock, sleep=no_sleep), clock, **named)


async def said(runner: DirectRunner, agent: str, text: str = "hi", **named: Any) -> list[Any]:
    events: list[DirectEvent] = []
    async for event in runner.run(agent, text, named.pop("history", ()), ADA, **named):
        events.append(event)
    return events


async def echo(turn: Any) -> str:
    return f"{turn.person.name}: {turn.text}"


async def order(turn: Any) -> AsyncIterator[str]:
    yield "Let me see. "
    number = await turn.ask("Which order?", ["1", "2"])
    yield f"Order {number} is on its way."


def test_a_request_gets_its_answer_and_the_end() -> None:
    assert asyncio.run(said(made(echo), "echo")) == [Text("Ada: hi"), Done()]


def test_an_unknown_agent_is_named() -> None:
    with pytest.raises(NotFound, match="nobody"):
        asyncio.run(said(made(echo), "nobody"))


def test_a_text_over_the_bound_and_a_person_over_the_rate_reach_no_agent() -> None:
    with pytest.raises(TooLarge):
        asyncio.run(said(made(echo), "echo", "x" * (TURN_TEXT_CHARS_MAX + 1)))
    with pytest.raises(RateLimited):
        asyncio.run(said(made(echo, admit=lambda user: user != ADA.user), "echo"))


def test_the_agent_sees_the_newest_of_a_long_history() -> None:
    seen: list[Any] = []

    async def reader(turn: Any) -> str:
        seen.append(turn.history)
        return "read"

    history = [("user", str(n)) for n in range(DIRECT_HISTORY_MAX + 5)]
    asyncio.run(said(made(reader), "reader", history=history))

    assert len(seen[0]) == DIRECT_HISTORY_MAX
    assert seen[0][-1] == history[-1]


def test_a_question_ends_the_run_and_its_answer_goes_on_without_saying_things_twice() -> None:
    async def scenario() -> None:
        runner, journal = made(order), Journal()
        first = await said(runner, "order", journal=journal)
        assert first[0] == Text("Let me see. ")
        assert isinstance(first[1], Asked)
        assert first[1].question.text == "Which order?"
        assert first[1].question.options == ["1", "2"]
        assert len(first) == 2

        first[1].question.answer = "2"
        assert await said(runner, "order", journal=journal) == [
            Text("Order 2 is on its way."),
            Done(),
        ]

    asyncio.run(scenario())


def test_a_tool_has_the_same_key_for_the_same_request_and_person_only() -> None:
    keys: list[str] = []

    async def payer(turn: Any) -> str:
        async def pay(key: str) -> str:
            keys.append(key)
            return "paid"

        await turn.tools.call("pay", "keyed", pay, 10)
        return str(await turn.tools.call("pay", "keyed", pay, 10))

    async def scenario() -> None:
        runner = made(payer)
        for key in ("k1", "k1", "k2", ""):
            await said(runner, "payer", key=key)
        async for _ in runner.run("payer", "hi", (), Person("@bo:x"), key="k1"):
            pass

    asyncio.run(scenario())
    assert len(keys) == 5, "within one run the second call is the first one's result"
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError("the card number is 4111"), AgentFailed),
        (Forbidden("secret"), AgentFailed),
        (Unavailable("secret", 1500), Unavailable),
        (ConnectionError("secret"), Unavailable),
        (BadReply("secret"), BadReply),
        (ReplyCutOff("secret"), ReplyCutOff),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), AgentFailed),
        (SystemExit(3), AgentFailed),
        (asyncio.CancelledError(), AgentFailed),
    ],
)
def test_what_an_agent_raises_is_told_by_code_and_without_its_words(
    raised: BaseException, told: type[Exception]
) -> None:
    async def breaker(turn: Any) -> str:
        raise raised

    with pytest.raises(told) as caught:
        asyncio.run(said(made(breaker), "breaker"))
    assert type(caught.value) is told
    assert "secret" not in str(caught.value)
    assert "4111" not in str(caught.value)


def test_an_agent_that_is_silent_for_too_long_is_stopped() -> None:
    stopped: list[str] = []

    async def sleeper(turn: Any) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")

    with pytest.raises(AgentTimedOut):
        asyncio.run(said(made(sleeper, terms={"quiet_s": 0.01}), "sleeper"))
    assert stopped == ["stopped"]


def test_whoever_reads_slowly_holds_the_agent_and_is_not_interrupted() -> None:
    async def counter(turn: Any) -> AsyncIterator[str]:
        for n in range(300):
            yield f"{n} "

    async def scenario() -> None:
        got = 0
        async for event in made(counter).run("counter", "hi", (), ADA):
            await asyncio.sleep(0)
            got += isinstance(event, Text)
        assert got == 300

    asyncio.run(scenario())


def test_closing_the_events_stops_the_agent_and_gives_its_place_back() -> None:
    stopped: list[str] = []

    async def endless(turn: Any) -> AsyncIterator[str]:
        try:
            while True:
                yield "more"
                await asyncio.sleep(0)
        finally:
            stopped.append("stopped")

    async def scenario() -> None:
        runner = made(endless, terms={"at_once": 1})
        for _ in range(3):
            async with contextlib.aclosing(runner.run("endless", "hi", (), ADA)) as events:
                async for _event in events:
                    break
            assert runner.running == 0

    asyncio.run(scenario())
    assert stopped == ["stopped"] * 3


def test_more_requests_than_the_bound_are_told_to_come_again() -> None:
    async def scenario() -> None:
        runner = made(echo, runs_max=1)
        async with contextlib.aclosing(runner.run("echo", "hi", (), ADA)) as events:
            await anext(events)
            with pytest.raises(Busy):
                await said(runner, "echo")
        assert await said(runner, "echo") == [Text("Ada: hi"), Done()]

    asyncio.run(scenario())


def test_one_person_may_not_take_all_the_runs() -> None:
    async def scenario() -> None:
        runner = made(echo)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(DIRECT_RUNS_PER_PERSON_MAX):
                run = runner.run("echo", "hi", (), ADA)
                await stack.enter_async_context(contextlib.aclosing(run))
                await anext(run)
            with pytest.raises(Busy):
                await said(runner, "echo")
            other = runner.run("echo", "hi", (), Person("@bo:x", "Bo"))
            assert [event async for event in other] == [Text("Bo: hi"), Done()]
        assert await said(runner, "echo") == [Text("Ada: hi"), Done()]

    asyncio.run(scenario())


def test_who_waits_too_long_for_a_place_is_told_and_the_agent_not_blamed() -> None:
    async def endless(turn: Any) -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    async def scenario() -> None:
        runner = made(endless, terms={"at_once": 1}, place_wait_s=0.01)
        async with contextlib.aclosing(runner.run("endless", "hi", (), ADA)) as first:
            await anext(first)
            for _ in range(10):
                with pytest.raises(Busy):
                    await said(runner, "endless")
        async with contextlib.aclosing(runner.run("endless", "hi", (), ADA)) as again:
            assert await anext(again) == Text("one")

    asyncio.run(scenario())


def test_an_agent_that_times_out_again_and_again_is_broken_off() -> None:
    async def sleeper(turn: Any) -> str:
        await asyncio.Event().wait()
        return "never"

    async def scenario() -> None:
        runner = made(sleeper, terms={"first_event_s": 0.001})
        for _ in range(BREAKER_CALLS_MIN):
            with pytest.raises(AgentTimedOut):
                await said(runner, "sleeper")
        with pytest.raises(Unavailable):
            await said(runner, "sleeper")

    asyncio.run(scenario())


def test_progress_is_among_the_events() -> None:
    async def worker(turn: Any) -> str:
        await turn.tools.status("looking")
        return "found"

    assert asyncio.run(said(made(worker), "worker")) == [
        Status("looking"),
        Text("found"),
        Done(),
    ]


def test_a_hand_over_goes_to_the_other_agent_and_never_in_circles() -> None:
    async def first(turn: Any) -> Handoff:
        return Handoff("echo")

    async def ping(turn: Any) -> Handoff:
        return Handoff("ping")

    async def person(turn: Any) -> Handoff:
        return Handoff("human")

    runner = made(first, ping, person, echo)
    assert asyncio.run(said(runner, "first")) == [Handoff("echo"), Text("Ada: hi"), Done()]
    for name in ("ping", "person"):
        with pytest.raises(AgentFailed):
            asyncio.run(said(runner, name))


def test_what_is_not_an_agents_own_goes_to_whom_the_router_chooses() -> None:
    async def picky(turn: Any) -> Handoff:
        return Handoff("")

    asked: list[tuple[str, tuple[str, ...]]] = []

    async def other(text: str, declined: tuple[str, ...]) -> str:
        asked.append((text, declined))
        return "" if len(asked) > 1 else "echo"

    runner = made(picky, echo, other=other)
    assert asyncio.run(said(runner, "picky"))[1:] == [Text("Ada: hi"), Done()]
    with pytest.raises(AgentFailed):
        asyncio.run(said(runner, "picky"))
    assert asked == [("hi", ("picky",))] * 2


def test_while_an_agent_is_down_its_stand_in_answers_and_says_so() -> None:
    async def down(turn: Any) -> str:
        raise Unavailable("down")

    runner = made(down, echo, terms={"fallback": "echo"})
    told = "".join(
        event.text for event in asyncio.run(said(runner, "down")) if isinstance(event, Text)
    )

    assert told == "@down does not answer just now; I am @echo.\n\nAda: hi"


def test_nobody_stands_in_for_an_answer_that_was_begun() -> None:
    async def half(turn: Any) -> AsyncIterator[str]:
        yield "half of "
        raise ConnectionError

    with pytest.raises(Unavailable):
        asyncio.run(said(made(half, echo, terms={"fallback": "echo"}), "half"))


async def dear(turn: Any) -> AsyncIterator[AgentEvent]:
    yield Usage(input_tokens=3, cost_usd=0.5)
    yield Text("once")
    yield Usage(input_tokens=3, cost_usd=0.5)
    yield Text("never")


def test_what_is_used_is_told_and_may_end_the_run() -> None:
    told: list[float] = []

    async def used(agent: Any, person: Person, usage: Usage) -> None:
        told.append(usage.cost_usd)
        raise OverBudget("over the cap of the day")

    with pytest.raises(OverBudget):
        asyncio.run(said(made(dear, used=used), "dear"))
    assert told == [0.5]


def test_a_request_costs_no_more_than_its_agent_may() -> None:
    async def scenario() -> list[str]:
        heard: list[str] = []
        with pytest.raises(OverBudget):
            await hear(made(dear, terms={"budget_usd": 0.75}), heard)
        assert heard == ["once"]
        await hear(made(dear, terms={"budget_usd": 1.0}), heard)
        return heard

    async def hear(runner: DirectRunner, heard: list[str]) -> None:
        async for event in runner.run("dear", "hi", (), ADA):
            if isinstance(event, Text):
                heard.append(event.text)

    assert asyncio.run(scenario()) == ["once", "once", "never"]


def test_an_agent_passes_nothing_to_whom_it_may_not() -> None:
    async def first(turn: Any) -> Handoff:
        return Handoff("echo")

    for allowed, passes in ((["echo"], True), (["human"], False), ([], False)):
        runner = made(first, echo, terms={"can_handoff": allowed})
        if passes:
            assert Text("Ada: hi") in asyncio.run(said(runner, "first"))
        else:
            with pytest.raises(AgentFailed):
                asyncio.run(said(runner, "first"))
