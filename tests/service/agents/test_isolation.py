"""An agent in trouble: another stands in, and other conversations do not notice."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.contract import Turn
from angarium.agents.declared import Routing
from angarium.agents.guard import BUSY, FLOODED
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.ids import ConversationId
from angarium.testing.agents import AgentWorld

AT_ONCE = Patience(first_event_s=20, turn_s=20, retry_min_s=0, retry_max_s=0)
STANDS_IN = "@billing does not answer just now; I am @desk.\n\n"


def agent(name: str, function: Callable[[Turn], Any], **terms: Any) -> Agent:
    made = Agent(name, name, **terms)
    made.on_turn(function)
    return made


async def away(turn: Turn) -> str:
    raise Unavailable


async def echo(turn: Turn) -> str:
    return f"you said {turn.text}"


def in_world(
    scenario: Callable[[AgentWorld], Awaitable[None]], *agents: Agent, **named: Any
) -> None:
    async def run() -> None:
        async with AgentWorld(agents, patience=AT_ONCE, **named) as world:
            await scenario(world)

    asyncio.run(run())


def talk(number: int) -> ConversationId:
    return ConversationId(f"01999999-0000-7000-8000-{number:012d}")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("terms", "routing"),
    [({"fallback": "desk"}, Routing()), ({}, Routing(fallback="desk"))],
    ids=["its own", "everybody's"],
)
def test_another_agent_stands_in_says_so_and_does_not_stay(
    terms: dict[str, str], routing: Routing
) -> None:
    down = [True]

    async def billing(turn: Turn) -> str:
        return await away(turn) if down[0] else "your bill"

    async def scenario(world: AgentWorld) -> None:
        assert await world.say("my bill?") == [STANDS_IN + "you said my bill?"]
        turn = await world.turn(1)
        assert (turn.agent, turn.reason) == ("desk", "stands in for billing")
        down[0] = False
        assert await world.say("and now?") == ["your bill"]

    in_world(scenario, agent("billing", billing, **terms), agent("desk", echo), routing=routing)


def test_nobody_stands_in_for_an_agent_that_has_done_something() -> None:
    async def pays(turn: Turn) -> str:
        async def pay(key: str) -> str:
            return "paid"

        await turn.tools.call("pay", "keyed", pay)
        if turn.attempt < 3:
            raise Unavailable
        return "paid once"

    async def scenario(world: AgentWorld) -> None:
        assert await world.say("pay") == ["paid once"]

    in_world(scenario, agent("billing", pays, fallback="desk"), agent("desk", echo))


def test_agents_that_stand_in_for_each_other_do_not_go_round_for_ever() -> None:
    async def scenario(world: AgentWorld) -> None:
        (told,) = await world.say("anybody?")
        assert told.startswith("Sorry")

    in_world(scenario, agent("one", away, fallback="two"), agent("two", away, fallback="one"))


def test_an_agent_that_hangs_takes_no_lane_from_the_others() -> None:
    release = asyncio.Event()

    async def hang(turn: Turn) -> str:
        await release.wait()
        return "at last"

    async def scenario(world: AgentWorld) -> None:
        # Four times as many turns of the one that hangs as there are lanes.
        for number in range(32):
            received = world.write_message("@slow hi", conversation=talk(number))
            await world.endpoint.receive(received)
        others = [talk(100 + number) for number in range(16)]
        for conversation in others:
            received = world.write_message("@quick hi", conversation=conversation)
            await world.endpoint.receive(received)
        await until(lambda: all(world.answers(conversation) for conversation in others))
        assert not any(world.answers(talk(number)) for number in range(32))
        release.set()
        await world.gateway.idle()
        assert all(world.answers(talk(number)) for number in range(32))

    in_world(scenario, agent("slow", hang, at_once=4), agent("quick", echo), turns_at_once=8)


def test_whoever_finds_no_place_to_wait_is_told() -> None:
    release = asyncio.Event()

    async def hang(turn: Turn) -> str:
        await release.wait()
        return "at last"

    async def scenario(world: AgentWorld) -> None:
        for number in range(3):
            received = world.write_message("hi", conversation=talk(number))
            await world.endpoint.receive(received)
        await until(lambda: bool(world.answers(talk(2))))
        assert [sent.body.text for sent in world.answers(talk(2))] == [BUSY.sentence]
        release.set()
        await world.gateway.idle()

    ward = Ward(ManualClock(), waiting_max=1)
    in_world(scenario, agent("slow", hang, at_once=1), ward=ward)


def test_an_agent_that_floods_is_stopped_with_a_sentence() -> None:
    async def flood(turn: Turn) -> Any:
        while True:
            yield "more " * 1000

    async def scenario(world: AgentWorld) -> None:
        assert await world.say("go") == [FLOODED.sentence]
        turn = await world.turn(1)
        assert (turn.state, turn.reason) == ("failed", "too_large")

    in_world(scenario, agent("talker", flood))
