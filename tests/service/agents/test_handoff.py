"""People take conversations over from agents and give them back."""

import asyncio

import pytest

from angarium.agents.agent import Agent, handoff
from angarium.agents.controls import Control
from angarium.agents.guard import NOT_ALLOWED
from angarium.agents.handoff import HumanHours
from angarium.agents.sentences import (
    AGENTS_AGAIN,
    HUMAN_CALLED,
    HUMAN_CAME,
    NO_HUMANS,
    NOBODY_CAME,
)
from angarium.agents.turns import Patience
from angarium.errors import Conflict, Malformed, TooLarge
from angarium.ids import uuid7
from angarium.limits import HUMAN_IDLE_S, HUMAN_WAIT_S, REPLY_BYTES_MAX
from angarium.testing.agents import CONVERSATION, PERSON, AgentWorld

AT_ONCE = Patience(first_event_s=5, turn_s=5, retry_min_s=0, retry_max_s=0)
EVE, MAX = "@eve:test", "@max:test"


def make_agent(**terms):
    agent = Agent("shop", "for tests", **terms)

    @agent.on_turn
    async def answer(turn):
        if turn.text == "person please":
            yield "One moment."
            yield handoff("human", "asked for it")
        elif turn.text == "sure?":
            yield f"so {await turn.ask('Really?')}"
        elif turn.text == "history":
            yield "|".join(f"{role}:{text}" for role, text in turn.history)
        else:
            yield f"agent says {turn.text}"

    return agent


def in_world(scenario, agent=None, **settings):
    async def run():
        world = AgentWorld([agent or make_agent()], patience=AT_ONCE, **settings)
        async with world, asyncio.timeout(20):
            await scenario(world)

    asyncio.run(run())


def log(world):
    return [sent.body for sent in world.relay.log.get(CONVERSATION, [])]


async def done(world):
    """What operators asked for is carried out."""
    await until(world.gateway._controls.conversations)
    await world.gateway.idle()


async def until(some):
    """Until there are none of what `some` lists."""
    for _ in range(1000):
        if not await some():
            return
        await asyncio.sleep(0.01)


async def taken(world, by=EVE, name="Eve"):
    await world.gateway.operators.take_over(CONVERSATION, by, name)
    await done(world)


# --- asking for people ------------------------------------------------------------------


def test_a_person_who_asks_for_people_is_told_and_agents_are_silent():
    async def scenario(world):
        assert await world.say("/human") == [HUMAN_CALLED["en"]]
        assert await world.say("hello?") == []
        turn = await world.turn(3)
        assert (turn.state, turn.reason, turn.body) == (
            "expired",
            "human has the conversation",
            b"",
        )

    in_world(scenario)


def test_an_agent_that_asks_for_people_may_say_something_first():
    async def scenario(world):
        [told] = await world.say("person please")
        assert told == f"One moment.\n\n{HUMAN_CALLED['en']}"
        assert await world.say("hello?") == []

    in_world(scenario)


def test_an_agent_passes_turns_only_to_whom_it_may():
    async def scenario(world):
        assert await world.say("person please") == [NOT_ALLOWED.sentence]
        assert await world.say("hello") == ["agent says hello"]

    in_world(scenario, make_agent(can_handoff=["orders"]))


def test_where_there_are_no_people_the_agent_goes_on():
    async def scenario(world):
        assert await world.say("/human") == [NO_HUMANS["en"]]
        assert await world.say("hello") == ["agent says hello"]

    in_world(scenario, hours=HumanHours(wait_s=0))


def test_operators_hear_of_who_waits_without_content():
    notices = []

    async def tell(notice):
        notices.append(notice)

    async def scenario(world):
        await world.say("my secret question")
        await world.say("/human")
        [waiting] = await world.gateway.operators.taken()
        assert (waiting.conversation, waiting.human) == (CONVERSATION, "anybody")
        assert [(one.what, one.who) for one in notices] == [("human.wanted", PERSON)]
        assert "secret" not in repr(waiting) + repr(notices)

    in_world(scenario, tell=tell)


# --- taking over ------------------------------------------------------------------------


def test_an_operator_takes_over_answers_and_hands_back():
    async def scenario(world):
        await world.say("hello")
        await taken(world)
        assert log(world)[-1].text == HUMAN_CAME["en"].format(name="Eve")
        assert await world.say("are you real?") == []
        await world.gateway.operators.reply(CONVERSATION, EVE, "Yes, I am.")
        await done(world)
        said = log(world)[-1]
        assert (said.text, said.agent, said.name) == ("Yes, I am.", "human", "Eve")
        await world.gateway.operators.hand_back(CONVERSATION, EVE)
        await done(world)
        assert log(world)[-1].text == AGENTS_AGAIN["en"]
        assert await world.say("hello again") == ["agent says hello again"]
        assert await world.gateway.operators.taken() == []

    in_world(scenario)


def test_what_was_said_meanwhile_is_in_the_agents_history_and_never_answered():
    async def scenario(world):
        await world.say("hello")
        await taken(world)
        await world.say("are you real?")
        await world.gateway.operators.reply(CONVERSATION, EVE, "Yes.")
        await world.gateway.operators.hand_back(CONVERSATION, EVE)
        await done(world)
        await world.restart()
        [history] = await world.say("history")
        assert history.endswith("user:are you real?|agent:Yes.")
        assert "agent says are you real?" not in [body.text for body in log(world)]

    in_world(scenario)


def test_a_question_that_was_open_is_not_answered_by_what_is_written_later():
    async def scenario(world):
        await world.say("sure?")
        await taken(world)
        assert (await world.turn(1)).state == "expired"
        await world.gateway.operators.hand_back(CONVERSATION, EVE)
        await done(world)
        assert await world.say("thanks") == ["agent says thanks"]

    in_world(scenario)


def test_only_one_operator_has_a_conversation():
    async def scenario(world):
        await taken(world)
        operators = world.gateway.operators
        for refused in (
            operators.take_over(CONVERSATION, MAX, "Max"),
            operators.reply(CONVERSATION, MAX, "hi"),
            operators.hand_back(CONVERSATION, MAX),
        ):
            with pytest.raises(Conflict):
                await refused

    in_world(scenario)


def test_two_operators_who_ask_at_once_are_told_apart_by_who_was_first():
    async def scenario(world):
        await world.gateway.close()
        await world.gateway.operators.take_over(CONVERSATION, EVE, "Eve")
        with pytest.raises(Conflict):
            await world.gateway.operators.take_over(CONVERSATION, MAX, "Max")
        await world.gateway.operators.reply(CONVERSATION, EVE, "Hello, Eve here.")
        await world.start()
        await done(world)
        assert [body.text for body in log(world)[-2:]] == [
            HUMAN_CAME["en"].format(name="Eve"),
            "Hello, Eve here.",
        ]

    in_world(scenario)


def test_the_same_call_again_is_the_same_reply():
    async def scenario(world):
        await taken(world)
        call = uuid7(1)
        for _ in range(2):
            await world.gateway.operators.reply(CONVERSATION, EVE, "Once.", call)
            await done(world)
        assert [body.text for body in log(world)].count("Once.") == 1

    in_world(scenario)


@pytest.mark.parametrize(
    ("text", "error"), [("  ", Malformed), ("x" * (REPLY_BYTES_MAX + 1), TooLarge)]
)
def test_a_reply_has_a_text_within_its_bound(text, error):
    async def scenario(world):
        await taken(world)
        with pytest.raises(error):
            await world.gateway.operators.reply(CONVERSATION, EVE, text)

    in_world(scenario)


def test_a_reply_without_taking_over_is_refused():
    async def scenario(world):
        with pytest.raises(Conflict):
            await world.gateway.operators.reply(CONVERSATION, EVE, "hi")

    in_world(scenario)


# --- ways back --------------------------------------------------------------------------


def test_reset_brings_the_agents_back():
    async def scenario(world):
        await world.say("/human")
        await world.say("/reset")
        assert await world.say("hello") == ["agent says hello"]
        assert await world.gateway.operators.taken() == []

    in_world(scenario)


def test_where_nobody_comes_agents_answer_again_and_the_person_is_told():
    async def scenario(world):
        await world.say("/human")
        world.clock.advance(HUMAN_WAIT_S + 1)
        await world.restart()
        await until(world.gateway.operators.taken)
        assert log(world)[-1].text == NOBODY_CAME["en"]
        assert await world.say("hello") == ["agent says hello"]

    in_world(scenario)


def test_an_operator_who_falls_silent_loses_the_conversation():
    async def scenario(world):
        await taken(world)
        world.clock.advance(HUMAN_IDLE_S - 1)
        await world.gateway.operators.reply(CONVERSATION, EVE, "still here")
        await done(world)
        world.clock.advance(HUMAN_IDLE_S - 1)
        await world.say("hello?")
        assert log(world)[-1].text == "hello?"
        world.clock.advance(2)
        assert await world.say("hello?") == ["agent says hello?"]
        assert log(world)[-2].text == AGENTS_AGAIN["en"]

    in_world(scenario)


def test_a_take_over_asked_for_while_no_gateway_works_is_carried_out_by_the_next():
    async def scenario(world):
        await world.gateway.close()
        await world.gateway.operators.take_over(CONVERSATION, EVE, "Eve")
        await world.start()
        await done(world)
        assert await world.say("hello?") == []

    in_world(scenario)


def test_what_cannot_be_done_is_dropped_and_the_rest_is_done():
    async def scenario(world):
        await taken(world)
        controls = world.gateway._controls
        await controls.write(CONVERSATION, uuid7(1), Control("reply", MAX, text="no", at_ms=1))
        await world.gateway.operators.reply(CONVERSATION, EVE, "yes")
        await done(world)
        assert [body.text for body in log(world)][-1] == "yes"
        assert "no" not in [body.text for body in log(world)]

    in_world(scenario)
