"""What people are told of who answers, and what does not leave with an answer."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.agents.replies import DISCLOSURE, Disclosure
from angarium.agents.reply_guard import REDACTED
from angarium.agents.sentences import AI_DISCLOSURE, say
from angarium.ids import ConversationId
from angarium.testing.agents import AgentWorld

ELSEWHERE = ConversationId("01999999-0000-7000-8000-000000000002")
EVERYBODY = Disclosure(everybody=True)
SECRET = "sk-" + "A1b2C3d4E5f6G7h8I9j0K1l2"


def in_world(scenario, **settings):
    agent = Agent("agent", "for tests")

    @agent.on_turn
    async def answer(turn):
        if turn.text == "history":
            yield repr(turn.history)
        else:
            yield f"you said {turn.text}"
            await asyncio.sleep(0)
            yield f" {SECRET}" if turn.text == "leak" else ""

    async def run():
        async with AgentWorld([agent], **settings) as world, asyncio.timeout(20):
            await scenario(world)

    asyncio.run(run())


def test_people_in_the_app_are_told_once_and_not_in_each_conversation():
    async def scenario(world):
        assert await world.say("one") == [f"{DISCLOSURE}\n\nyou said one"]
        assert await world.say("two") == ["you said two"]
        await world.restart()
        assert await world.say("three", conversation=ELSEWHERE) == ["you said three"]

    in_world(scenario, disclosure=EVERYBODY)


def test_being_forgotten_is_no_reason_to_be_told_again():
    async def scenario(world):
        await world.say("one")
        await world.say("/forget")
        assert await world.say("two", conversation=ELSEWHERE) == ["you said two"]

    in_world(scenario, disclosure=EVERYBODY)


def test_an_operators_own_sentence_is_used():
    async def scenario(world):
        assert await world.say("hi", via="WhatsApp") == ["A robot writes.\n\nyou said hi"]

    in_world(scenario, disclosure=Disclosure(text="A robot writes."))


@pytest.mark.parametrize("language", ["en", "es", "pt", "hi", "ar", "de", "fr"])
def test_seven_languages_have_a_sentence_of_their_own(language):
    assert say(AI_DISCLOSURE, language) == AI_DISCLOSURE[language]
    assert say(AI_DISCLOSURE, f"{language}-XX") == AI_DISCLOSURE[language]


def test_other_languages_are_told_in_english():
    assert say(AI_DISCLOSURE, "xx") == say(AI_DISCLOSURE) == AI_DISCLOSURE["en"]


def test_a_secret_leaves_neither_with_the_answer_nor_its_parts_nor_into_memory():
    async def scenario(world):
        assert await world.say("leak") == [f"you said leak {REDACTED}"]
        parts = "".join(part.body.text for part in world.endpoint.seen.parts)
        [history] = await world.say("history")
        assert SECRET not in parts + history
        assert REDACTED in history

    in_world(scenario)
