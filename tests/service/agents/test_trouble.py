"""What people see of agents that fail, are slow or are gone: the real gateway, no network."""

import asyncio

import pytest

from angarium.agents.agent import Agent, ask
from angarium.agents.attempt import Patience
from angarium.agents.guard import (
    BROKEN,
    SILENT,
    STALLED,
    TIMED_OUT,
    TIRED,
    TOO_FAST,
)
from angarium.errors import Replaced, Unavailable, UnverifiedDevice
from angarium.limits import (
    TURN_ATTEMPTS,
)
from angarium.testing.agents import AgentWorld

AT_ONCE = Patience(first_event_s=5, turn_s=5, retry_min_s=0, retry_max_s=0)


def agent(function, name="echo", **terms):
    made = Agent(name, f"{name} for tests", **terms)
    made.on_turn(function)
    return made


async def echo(turn):
    return f"you said {turn.text}"


def in_world(scenario, *functions, terms=None, **settings):
    """Run `scenario(world)` with an agent for each function, named after it."""
    agents = [agent(function, function.__name__, **(terms or {})) for function in functions]

    async def run():
        async with AgentWorld(agents, patience=AT_ONCE, **settings) as world:
            await scenario(world)

    asyncio.run(run())


async def booking(turn):
    people = await ask(turn, "For how many?")
    yield "Fine. "
    when = await turn.ask("When?", options=["19:00", "20:30"])
    yield f"{people} at {when}"


def returns(value):
    async def do(_key):
        return value

    return do


def test_a_bug_in_an_agent_gets_an_apology_at_once():
    attempts = []

    async def buggy(turn):
        attempts.append(turn.attempt)
        raise ValueError(turn.text)

    async def scenario(world):
        assert await world.say("secret") == [BROKEN.sentence]
        assert attempts == [1]
        assert (await world.turn(1)).state == "failed"

    in_world(scenario, buggy)


def test_the_log_tells_where_an_agent_failed_but_not_what_was_said(caplog):
    async def buggy(turn):
        raise ValueError(turn.text)

    async def scenario(world):
        await world.say("pomegranate")

    in_world(scenario, buggy)
    assert "buggy failed (agent_error): ValueError at " in caplog.text
    assert "pomegranate" not in caplog.text


def test_a_passing_failure_is_tried_again():
    async def flaky(turn):
        if turn.attempt < 3:
            raise ConnectionError
        return f"attempt {turn.attempt}"

    async def scenario(world):
        assert await world.say("x") == ["attempt 3"]

    in_world(scenario, flaky)


def test_after_the_last_attempt_the_person_is_told():
    attempts = []

    async def down(turn):
        attempts.append(turn.attempt)
        raise Unavailable

    async def scenario(world):
        assert await world.say("x") == [TIRED.sentence]
        # Each tried thrice at once, until the agent's breaker opened.
        assert attempts == [1, 1, 1, 2, 2, 2, 3, 3]
        turn = await world.turn(1)
        assert (turn.state, turn.reason) == ("failed", "agent_unavailable")
        assert turn.attempts == TURN_ATTEMPTS
        await world.restart()
        assert len(world.answers()) == 1

    in_world(scenario, down)


@pytest.mark.parametrize(
    ("trouble", "phase"),
    [
        (SILENT, {"first_event_s": 0.01}),
        (STALLED, {"quiet_s": 0.01}),
        (TIMED_OUT, {"timeout_s": 0.02}),
    ],
    ids=["first event", "between events", "whole turn"],
)
def test_an_agent_that_takes_too_long_is_stopped(trouble, phase):
    stopped = []

    async def slow(turn):
        try:
            if trouble is not SILENT:
                yield "a beginning"
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    async def scenario():
        async with AgentWorld([agent(slow, "slow", **phase)]) as world:
            assert await world.say("x") == [trouble.sentence]
            assert (await world.turn(1)).reason == trouble.code
            assert stopped == [True]

    asyncio.run(scenario())


def test_who_is_too_fast_is_told_and_no_agent_runs():
    async def scenario(world):
        assert await world.say("x") == [TOO_FAST.sentence]
        assert (await world.turn(1)).reason == "rate_limited"

    in_world(scenario, echo, admit=lambda user: False)


def test_a_reply_that_cannot_be_sealed_fails_the_turn_and_the_lane_goes_on():
    async def scenario(world):
        submit = world.endpoint.submit

        async def refuse(*arguments, **more):
            raise UnverifiedDevice("nobody can read this")

        world.endpoint.submit = refuse
        assert await world.say("x") == []
        turn = await world.turn(1)
        assert (turn.state, turn.reason) == ("failed", "agent_error, then unverified_device")
        world.endpoint.submit = submit
        assert await world.say("y") == ["you said y"]

    in_world(scenario, echo)


def test_an_answer_waits_until_it_can_be_sealed_and_is_not_computed_again(monkeypatch):
    monkeypatch.setattr("angarium.agents.replies.TURN_RETRY_MIN_S", 0.0)
    runs, refusals = [], list(range(2 * TURN_ATTEMPTS))

    async def answer(turn):
        runs.append(turn.attempt)
        return "worth the wait"

    async def scenario(world):
        submit = world.endpoint.submit

        async def shut(*arguments, **more):
            if refusals:
                refusals.pop()
                raise Unavailable("no keys can be claimed")
            return await submit(*arguments, **more)

        world.endpoint.submit = shut
        assert await world.say("x") == ["worth the wait"]
        assert runs == [1]

    in_world(scenario, answer)


def test_a_turn_stays_open_when_the_device_itself_cannot_speak():
    async def scenario(world):
        async def ended(*arguments, **more):
            raise Replaced("another connection took over")

        world.endpoint.submit = ended
        assert await world.say("x") == []
        assert (await world.turn(1)).state == "running"
        await world.restart()
        await world.gateway.idle()
        assert [sent.body.text for sent in world.answers()] == ["you said x"]

    in_world(scenario, echo)


def test_an_agent_removed_while_its_turn_was_open_is_apologised_for():
    async def scenario(world):
        await world.say("a table")
        world.registry = type(world.registry)([agent(echo)])
        await world.restart()
        (text,) = await world.say("4")
        assert "no longer here" in text

    in_world(scenario, booking)


def test_a_task_left_behind_by_an_agent_cannot_reopen_its_turn():
    left = []

    async def leaves(turn):
        async def later():
            await asyncio.sleep(0)
            await turn.tools.call("late", "keyed", returns(1))

        left.append(asyncio.ensure_future(later()))
        return "done"

    async def scenario(world):
        await world.say("x")
        (outcome,) = await asyncio.gather(*left, return_exceptions=True)
        assert type(outcome).__name__ == "Conflict"
        assert (await world.turn(1)).state == "replied"

    in_world(scenario, leaves)
