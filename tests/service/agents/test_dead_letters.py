"""Turns that failed can be begun again by an operator, and open ones ended."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.contract import Turn
from angarium.agents.guard import BROKEN, CANCELLED
from angarium.agents.orders import SCOPE, put_order
from angarium.errors import OutcomeUnknown
from angarium.ids import reply_key
from angarium.limits import TURN_STALE_S
from angarium.storage.contract import PutRecord
from angarium.testing.agents import CONVERSATION, AgentWorld

PATIENCE = Patience(retry_min_s=0, retry_max_s=0, burst_quiet_s=0)


def in_world(
    scenario: Callable[[AgentWorld], Awaitable[None]], function: Callable[[Turn], Any]
) -> None:
    agent = Agent("agent", "for tests")
    agent.on_turn(function)

    async def run() -> None:
        async with AgentWorld([agent], patience=PATIENCE) as world, asyncio.timeout(20):
            await scenario(world)

    asyncio.run(run())


async def order(world: AgentWorld, verb: Any, sequence: int = 1) -> None:
    await world.store.vault.write([put_order(verb, CONVERSATION, sequence)])
    await world.gateway.take_orders()
    await world.gateway.idle()


def said(world: AgentWorld) -> list[str]:
    return [sent.body.text for sent in world.answers()]


def test_a_failed_turn_is_replayed_and_answers_once() -> None:
    down = [True]

    async def flaky(turn: Turn) -> str:
        if down[0]:
            raise ValueError
        return f"you said {turn.text}"

    async def scenario(world: AgentWorld) -> None:
        assert await world.say("hi") == [BROKEN.sentence]
        assert (await world.turn(1)).body
        down[0] = False
        world.clock.advance(2 * TURN_STALE_S)
        await world.restart()
        await order(world, "replay")
        assert said(world) == [BROKEN.sentence, "you said hi"]
        keys = [sent.key for sent in world.answers()]
        assert keys[0] == reply_key(CONVERSATION, 1, "agent", 0)
        assert keys[1] == reply_key(CONVERSATION, 1, "agent", 33)
        turn = await world.turn(1)
        assert (turn.state, turn.body, turn.progress) == ("replied", b"", b"")
        assert await world.store.vault.read(SCOPE) == []
        await order(world, "replay")
        await world.restart()
        assert len(said(world)) == 2

    in_world(scenario, flaky)


def test_a_replay_that_fails_apologises_again_and_can_be_replayed_again() -> None:
    async def broken(turn: Turn) -> str:
        raise ValueError

    async def scenario(world: AgentWorld) -> None:
        await world.say("hi")
        await order(world, "replay")
        await order(world, "replay")
        assert said(world) == [BROKEN.sentence] * 3
        assert (await world.turn(1)).state == "failed"

    in_world(scenario, broken)


def test_what_tools_have_done_before_a_replay_counts_as_done() -> None:
    done: list[str] = []

    async def pays(turn: Turn) -> str:
        async def pay(key: str) -> str:
            done.append(key)
            return "paid"

        async def fax(_key: str) -> str:
            done.append("fax")
            raise ValueError

        paid = await turn.tools.call("pay", "keyed", pay)
        try:
            await turn.tools.call("fax", "once", fax)
        except OutcomeUnknown:
            return f"{paid}, fax unknown"
        return "never"

    async def scenario(world: AgentWorld) -> None:
        assert await world.say("hi") == [BROKEN.sentence]
        await order(world, "replay")
        assert said(world)[1:] == ["paid, fax unknown"]
        assert len(done) == 2

    in_world(scenario, pays)


def test_a_question_of_a_replay_is_a_message_of_its_own() -> None:
    broken = [True]

    async def asks(turn: Turn) -> str:
        answer = await turn.ask("Which?")
        if broken[0]:
            raise ValueError
        return f"so {answer} and {await turn.ask('Sure?')}"

    async def scenario(world: AgentWorld) -> None:
        await world.say("hi")
        assert await world.say("this") == [BROKEN.sentence]
        broken[0] = False
        await order(world, "replay")
        assert said(world)[-1] == "Sure?"
        assert await world.say("yes") == ["so this and yes"]

    in_world(scenario, asks)


def test_a_buried_turn_an_answered_one_and_an_unknown_one_are_not_replayed() -> None:
    async def sometimes(turn: Turn) -> str:
        if turn.text == "fail":
            raise ValueError
        return "fine"

    async def scenario(world: AgentWorld) -> None:
        await world.say("fail")
        await world.say("hello")
        assert await world.store.turns.bury(world.clock.now_ms() + 1, 10) == 1
        before = said(world)
        for sequence in (1, 3, 77):
            await order(world, "replay", sequence)
        assert said(world) == before
        assert await world.store.vault.read(SCOPE) == []

    in_world(scenario, sometimes)


def test_a_record_that_is_no_order_is_passed_over() -> None:
    async def echo(turn: Turn) -> str:
        return turn.text

    async def scenario(world: AgentWorld) -> None:
        await world.store.vault.write([PutRecord(SCOPE, "nonsense", b"\xff")])
        await world.store.vault.write([PutRecord(SCOPE, "x/1", b"explode")])
        await world.gateway.take_orders()
        assert await world.say("hi") == ["hi"]

    in_world(scenario, echo)


def test_an_operator_ends_a_running_turn_and_the_person_is_told() -> None:
    started, closed = asyncio.Event(), []

    async def hangs(turn: Turn) -> str:
        if turn.text != "hang":
            return "fine"
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)
        return "never"

    async def scenario(world: AgentWorld) -> None:
        await world.endpoint.receive(world.write_message("hang"))
        await started.wait()
        await order(world, "cancel")
        assert (said(world), closed) == ([CANCELLED.sentence], [True])
        turn = await world.turn(1)
        assert (turn.state, turn.reason, turn.body) == ("cancelled", "cancelled", b"")
        await world.gateway.take_orders()
        await world.gateway.idle()
        assert await world.store.vault.read(SCOPE) == []
        assert await world.say("next") == ["fine"]

    in_world(scenario, hangs)


def test_an_operator_ends_a_turn_that_waits_for_an_answer() -> None:
    async def asks(turn: Turn) -> str:
        return await turn.ask("Which?") if turn.text == "hi" else f"new: {turn.text}"

    async def scenario(world: AgentWorld) -> None:
        assert await world.say("hi") == ["Which?"]
        await order(world, "cancel")
        assert said(world)[1:] == [CANCELLED.sentence]
        assert await world.say("this") == ["new: this"]

    in_world(scenario, asks)


@pytest.mark.parametrize("verb", ["replay", "cancel"])
def test_an_order_is_found_by_the_gateway_that_opens_next(verb: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("angarium.agents.gateway.CONTROL_LOOK_S", 0.001)

    async def broken(turn: Turn) -> str:
        if turn.text == "ask":
            return await turn.ask("Which?")
        raise ValueError

    async def scenario(world: AgentWorld) -> None:
        await world.say("fail" if verb == "replay" else "ask")
        await world.gateway.close()
        await world.store.vault.write([put_order(verb, CONVERSATION, 1)])  # type: ignore[arg-type]
        await world.gateway.open()
        while await world.store.vault.read(SCOPE):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)
        await world.gateway.idle()
        assert len(said(world)) == 2

    in_world(scenario, broken)
