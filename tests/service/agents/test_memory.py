"""What agents remember of conversations and of people, and that it can be found again."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.agents.people import People
from angarium.agents.recall import new_exchange
from angarium.agents.turns import Patience
from angarium.clock import ManualClock
from angarium.errors import Busy
from angarium.ids import ConversationId, UserId
from angarium.limits import PERSON_MEMORY_BYTES_MAX, RECALL_EXCHANGES_MAX, RECALL_KEPT_S
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.agents import PERSON, AgentWorld
from angarium.testing.fakes import FixedKeySealer

AT_ONCE = Patience(first_event_s=5, turn_s=5, retry_min_s=0, retry_max_s=0)
ELSEWHERE = ConversationId("01999999-0000-7000-8000-000000000002")
BOB = UserId("@bob:test")
SCOPE = "gateway/GATEWAY1"


def in_world(scenario, function, **settings):
    agent = Agent("agent", "for tests")
    agent.on_turn(function)

    async def run():
        async with AgentWorld([agent], patience=AT_ONCE, **settings) as world:
            async with asyncio.timeout(10):
                await scenario(world)

    asyncio.run(run())


async def says(world, text, sender, conversation=ELSEWHERE):
    before = len(world.answers(conversation))
    received = world.write_message(text, sender=sender, conversation=conversation)
    await world.endpoint.receive(received)
    await world.gateway.idle()
    return [sent.body.text for sent in world.answers(conversation)[before:]]


async def notes_names(turn):
    seen = [turn.memory.get("last", "-"), turn.person_memory.get("last", "-")]
    turn.memory["last"] = turn.person_memory["last"] = turn.text
    return "/".join(seen)


async def recalls(turn):
    if turn.text.startswith("?"):
        found = await turn.recall(turn.text[1:], limit=1)
        return "\n".join(one.text for one in found) or "nothing"
    return f"noted {turn.text}"


class TwoTopics:
    """An embedder that knows lamps from everything else, whatever the words."""

    name = "two-topics"

    def __init__(self):
        self.texts = []

    async def embed(self, texts):
        self.texts += texts
        lamps = ("lamp", "shine", "bulb", "light")
        return [
            [1.0, 0.0] if any(word in text for word in lamps) else [0.0, 1.0] for text in texts
        ]


# --- memory of persons ------------------------------------------------------------------


def test_the_memory_of_a_person_goes_along_into_other_conversations():
    async def scenario(world):
        assert await world.say("one") == ["-/-"]
        assert await world.say("two", conversation=ELSEWHERE) == ["-/one"]
        assert await world.say("three") == ["one/two"]

    in_world(scenario, notes_names)


def test_the_memory_of_a_person_is_not_anothers():
    async def scenario(world):
        await world.say("one", conversation=ELSEWHERE)
        assert await says(world, "two", BOB) == ["one/-"]

    in_world(scenario, notes_names)


def test_the_memory_of_a_person_lives_through_a_restart():
    async def scenario(world):
        await world.say("one")
        await world.restart()
        assert await world.say("two", conversation=ELSEWHERE) == ["-/one"]

    in_world(scenario, notes_names)


def test_turns_of_a_person_at_the_same_time_keep_each_others_changes():
    both = asyncio.Barrier(2)

    async def waits(turn):
        if turn.text != "show":
            turn.person_memory[turn.text] = True
            await both.wait()
            return ""
        return ",".join(sorted(turn.person_memory))

    async def scenario(world):
        await world.endpoint.receive(world.write_message("a"))
        await world.endpoint.receive(world.write_message("b", conversation=ELSEWHERE))
        await world.gateway.idle()
        assert await world.say("show") == ["a,b"]
        await world.restart()
        assert await world.say("show") == ["a,b"]

    in_world(scenario, waits)


def test_too_much_memory_of_a_person_fails_the_turn_and_keeps_the_old():
    async def hoards(turn):
        if turn.text == "more":
            turn.person_memory["much"] = "x" * PERSON_MEMORY_BYTES_MAX
        seen = turn.person_memory.get("n", 0)
        turn.person_memory["n"] = seen + 1
        return str(seen)

    async def scenario(world):
        await world.say("one")
        await world.say("more")
        assert (await world.turn(3)).state == "failed"
        assert await world.say("two") == ["1"]

    in_world(scenario, hoards)


# --- recall -----------------------------------------------------------------------------


def test_what_was_said_in_another_conversation_is_recalled_by_its_words():
    async def scenario(world):
        await world.say("my parcel went to Lyon")
        await world.say("the weather is fine")
        assert await world.say("?where did the parcel go", conversation=ELSEWHERE) == [
            "user: my parcel went to Lyon\nagent: noted my parcel went to Lyon"
        ]

    in_world(scenario, recalls)


def test_what_was_said_is_recalled_by_its_meaning_and_embedded_once():
    embedder = TwoTopics()

    async def scenario(world):
        await world.say("I bought a bulb")
        await world.say("I bought a chair")
        [found] = await world.say("?things that shine")
        assert found.startswith("user: I bought a bulb")
        assert len([text for text in embedder.texts if text.startswith("user: I")]) == 2
        embedder.texts.clear()
        await world.restart()
        await world.say("?light")
        assert [text for text in embedder.texts if text.startswith("user: I")] == []

    in_world(scenario, recalls, embedder=embedder)


def test_an_embedder_that_is_busy_leaves_the_search_by_words():
    class TooBusy(TwoTopics):
        async def embed(self, texts):
            raise Busy("not now")

    async def scenario(world):
        await world.say("I bought a bulb")
        assert (await world.say("?bulb"))[0].startswith("user: I bought a bulb")

    in_world(scenario, recalls, embedder=TooBusy())


def test_what_another_person_said_is_not_recalled():
    async def scenario(world):
        await world.say("my parcel went to Lyon", conversation=ELSEWHERE)
        assert await says(world, "?parcel", BOB) == ["nothing"]

    in_world(scenario, recalls)


def test_old_exchanges_are_not_recalled_and_dropped_when_met():
    async def scenario(world):
        await world.say("my parcel went to Lyon")
        world.clock.advance(RECALL_KEPT_S + 1)
        await world.restart()
        assert await world.say("?parcel") == ["nothing"]
        kept = await world.store.vault.read(f"{SCOPE}/recall")
        assert [record.key for record in kept] == [f"{PERSON}/agent/0001"]

    in_world(scenario, recalls)


def test_so_many_exchanges_are_kept_and_no_more():
    async def scenario():
        opened = await open_sqlite(None, ManualClock(), inline=True)
        people = People(opened.store.vault, FixedKeySealer(), SCOPE)
        person = await people.load(PERSON)
        for n in range(RECALL_EXCHANGES_MAX + 3):
            exchange = new_exchange([("user", str(n))], n, "c")
            await opened.store.vault.write(people.keep_exchange(person, "a", exchange))
        found = await people.exchanges(person, "a")
        await opened.close()
        assert len(found) == RECALL_EXCHANGES_MAX
        assert found[2].when_ms == RECALL_EXCHANGES_MAX + 2

    asyncio.run(scenario())


@pytest.mark.parametrize("part", ["people", "recall"])
def test_what_is_kept_of_a_person_is_sealed_under_a_key_of_its_own(part):
    async def scenario(world):
        await world.say("a canary sings")
        records = await world.store.vault.read(f"{SCOPE}/{part}")
        content = [r for r in records if not r.key.endswith(("/key", "/account"))]
        assert content
        for record in content:
            with pytest.raises(Exception, match="another key"):
                FixedKeySealer().unseal(record.blob, f"{SCOPE}/{part}/{record.key}")

    in_world(scenario, notes_names)
