"""What agents spend is counted, capped and kept."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.agents.contract import Person, Text, Usage
from angarium.agents.guard import OVER_BUDGET, TOO_DEAR
from angarium.agents.spend import Caps, Spend
from angarium.agents.turns import Patience
from angarium.errors import OverBudget
from angarium.ids import ConversationId
from angarium.limits import SPEND_KEPT_DAYS
from angarium.testing.agents import PERSON, AgentWorld
from angarium.testing.fakes import FixedKeySealer

AT_ONCE = Patience(first_event_s=5, turn_s=5, retry_min_s=0, retry_max_s=0)
ELSEWHERE = ConversationId("01999999-0000-7000-8000-000000000002")
DAY_S = 24 * 3600


def make_agent(name="llm", **terms):
    agent = Agent(name, "for tests", **terms)

    @agent.on_turn
    async def answer(turn):
        for cost in turn.text.split():
            yield Text(f"[{cost}]")
            yield Usage(requests=1, cost_usd=float(cost))

    return agent


def in_world(scenario, agents=None, **settings):
    async def run():
        world = AgentWorld(agents or [make_agent()], patience=AT_ONCE, **settings)
        async with world, asyncio.timeout(20):
            await scenario(world)

    asyncio.run(run())


async def sums(world, whose="person"):
    """As another process reads them."""
    spend = Spend(
        world.store.vault, FixedKeySealer(), "gateway/GATEWAY1", world.clock, Caps(), "other"
    )
    return await spend.sums_usd(whose)


def test_what_turns_cost_is_summed_by_person_and_agent():
    async def scenario(world):
        await world.say("0.25")
        await world.say("0.5 0.125", conversation=ELSEWHERE)
        assert await sums(world) == {PERSON: 0.875}
        assert await sums(world, "agent") == {"llm": 0.875}

    in_world(scenario)


def test_a_turn_that_goes_on_over_its_budget_is_ended_with_a_sentence():
    async def scenario(world):
        assert await world.say("0.5 0.6 0.1") == [TOO_DEAR.sentence]
        assert (await world.turn(1)).reason == TOO_DEAR.code
        assert await sums(world) == {PERSON: 1.1}

    in_world(scenario, [make_agent(budget_usd=1.0)])


def test_an_answer_that_is_complete_is_given_though_it_passed_its_budget():
    async def scenario(world):
        assert await world.say("1.5") == ["[1.5]"]

    in_world(scenario, [make_agent(budget_usd=1.0)])


def test_a_person_who_has_used_up_a_day_is_told_so_until_the_next():
    async def scenario(world):
        await world.say("1.0")
        assert await world.say("0.1") == [OVER_BUDGET.sentence]
        assert await world.say("0.1", conversation=ELSEWHERE) == [OVER_BUDGET.sentence]
        world.clock.advance(DAY_S)
        await world.restart()
        assert await world.say("0.1") == ["[0.1]"]

    in_world(scenario, caps=Caps(person_day_usd=1.0))


def test_an_agent_that_has_used_up_a_day_leaves_others_alone():
    async def scenario(world):
        await world.say("@one 1.0")
        assert await world.say("@one 0.1") == [OVER_BUDGET.sentence]
        assert await world.say("@two 0.1") == ["[0.1]"]

    in_world(scenario, [make_agent("one"), make_agent("two")], caps=Caps(agent_day_usd=1.0))


def test_what_was_spent_is_known_after_a_restart():
    async def scenario(world):
        await world.say("1.0")
        await world.restart()
        assert await world.say("0.1") == [OVER_BUDGET.sentence]

    in_world(scenario, caps=Caps(person_day_usd=1.0))


def test_forgetting_a_person_gives_no_new_budget():
    async def scenario(world):
        await world.say("1.0")
        await world.say("/forget")
        assert await world.say("0.1") == [OVER_BUDGET.sentence]

    in_world(scenario, caps=Caps(person_day_usd=1.0))


def test_old_sums_are_dropped_and_young_ones_stay():
    async def scenario(world):
        await world.say("0.5")
        world.clock.advance((SPEND_KEPT_DAYS + 1) * DAY_S)
        await world.restart()
        await world.say("0.25")
        assert await world.gateway.spend.sweep() == 2
        assert await world.gateway.spend.sweep() == 0
        assert await sums(world) == {PERSON: 0.25}

    in_world(scenario)


@pytest.mark.parametrize("cost", ["-5", "nan"])
def test_nobody_is_paid_back(cost):
    async def scenario(world):
        await world.say("0.5")
        await world.say(cost)
        assert await sums(world) == {PERSON: 0.5}

    in_world(scenario)


def test_requests_on_other_nodes_count_towards_the_same_cap():
    async def scenario(world):
        agent, person = world.registry.find("llm"), Person(PERSON)
        other = Spend(
            world.store.vault,
            FixedKeySealer(),
            "gateway/GATEWAY1",
            world.clock,
            Caps(person_day_usd=1.0),
            "node 2",
        )
        await world.say("0.25")
        await other.check_request(agent, person)
        with pytest.raises(OverBudget):
            await other.used(agent, person, Usage(cost_usd=0.75))
        assert await world.say("0.1") == [OVER_BUDGET.sentence]
        assert await sums(world) == {PERSON: 1.0}

    in_world(scenario, caps=Caps(person_day_usd=1.0))


@pytest.mark.slow
@pytest.mark.process
def test_spending_is_kept_on_mongodb_too(on_mongo):
    async def scenario(world):
        await world.say("1.0")
        await world.restart()
        assert await world.say("0.1") == [OVER_BUDGET.sentence]

    in_world(scenario, caps=Caps(person_day_usd=1.0), open_store=on_mongo)
