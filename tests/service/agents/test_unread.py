"""A message that the gateway cannot open: its author is told once, and no agent runs."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from angarium.agents.agent import Agent
from angarium.agents.guard import UNREAD
from angarium.e2ee.body import Body
from angarium.ids import reply_key
from angarium.limits import TURN_STALE_S, UNREAD_TOLD_EVERY_S
from angarium.sdk.contract import Received
from angarium.testing.agents import CONVERSATION, AgentWorld

never = Agent("never", "for tests")


@never.on_turn
async def refuse(turn):
    assert turn.text == "readable"
    return "heard"


def in_world(scenario: Callable[[AgentWorld], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AgentWorld([never]) as world:
            await scenario(world)

    asyncio.run(run())


def unread(world: AgentWorld) -> Received:
    return replace(world.write_message("x"), body=Body(), problem="undecryptable", stream=b"")


async def hear(world: AgentWorld) -> int:
    """An unreadable message comes in and is worked off; its sequence."""
    received = unread(world)
    await world.endpoint.receive(received)
    await world.gateway.idle()
    return received.sequence


def test_the_author_is_asked_to_send_it_again_and_no_agent_runs() -> None:
    async def scenario(world: AgentWorld) -> None:
        sequence = await hear(world)
        (sent,) = world.answers()
        assert sent.body.text == UNREAD.sentence
        assert sent.body.text == "I could not read your last message. Please send it again."
        assert sent.key == reply_key(CONVERSATION, sequence, "", 0)
        turn = await world.turn(sequence)
        assert (turn.state, turn.reason, turn.agent) == ("replied", "undecryptable", "")
        assert world.endpoint.seen.read == []  # Nobody has read it.
        assert await world.say("readable") == ["heard"]

    in_world(scenario)


def test_of_many_in_a_minute_only_the_first_is_answered() -> None:
    async def scenario(world: AgentWorld) -> None:
        await hear(world)
        await world.restart()  # The minute outlives a process.
        second = await hear(world)
        assert len(world.answers()) == 1
        turn = await world.turn(second)
        assert (turn.state, turn.reason) == ("expired", "undecryptable")
        assert await world.say("/reset")
        await hear(world)
        assert [sent.body.text for sent in world.answers()].count(UNREAD.sentence) == 1
        world.clock.advance(UNREAD_TOLD_EVERY_S)
        await hear(world)
        assert [sent.body.text for sent in world.answers()].count(UNREAD.sentence) == 2

    in_world(scenario)


def test_a_crash_before_the_answer_gives_one_answer() -> None:
    async def scenario(world: AgentWorld) -> None:
        await world.endpoint.receive(unread(world))
        assert world.answers() == []
        await world.restart()
        await world.gateway.idle()
        await world.restart()
        await world.gateway.idle()
        assert [sent.body.text for sent in world.answers()] == [UNREAD.sentence]

    in_world(scenario)


def test_an_old_one_is_not_answered() -> None:
    async def scenario(world: AgentWorld) -> None:
        late = unread(world)
        world.clock.advance(TURN_STALE_S + 1)
        await world.endpoint.receive(late)
        await world.gateway.idle()
        assert world.answers() == []
        assert (await world.turn(late.sequence)).state == "expired"

    in_world(scenario)
