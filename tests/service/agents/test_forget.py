"""`/forget` deletes what is remembered of a person, and the store has nothing left of it."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from angarium.agents.agent import Agent
from angarium.agents.sentences import FORGOTTEN
from angarium.agents.turns import Patience
from angarium.errors import SealBroken
from angarium.ids import ConversationId, UserId
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.agents import CONVERSATION, PERSON, AgentWorld
from angarium.testing.mortal import Fate, reach_of

AT_ONCE = Patience(first_event_s=5, turn_s=5, retry_min_s=0, retry_max_s=0)
ELSEWHERE = ConversationId("01999999-0000-7000-8000-000000000002")
BOB = UserId("@bob:test")
SCOPE = "gateway/GATEWAY1"
PARTS = ("", "/people", "/recall", "/places", "/controls")


def make_agent():
    agent = Agent("agent", "for tests")

    @agent.on_turn
    async def answer(turn):
        if turn.text == "ask me":
            return f"so {await turn.ask('Which?')}"
        if turn.text == "fail":
            raise LookupError
        if turn.text == "what do you know?":
            found = await turn.recall("canary")
            known = (turn.memory, turn.person_memory, turn.history, found)
            return "something" if any(known) else "nothing"
        turn.memory["said"] = turn.person_memory["said"] = turn.text
        return "noted"

    return agent


def in_world(scenario, **settings):
    async def run():
        world = AgentWorld([make_agent()], patience=AT_ONCE, **settings)
        async with world, asyncio.timeout(20):
            await scenario(world)

    asyncio.run(run())


async def says(world, text, sender, conversation=CONVERSATION):
    before = len(world.answers(conversation))
    received = world.write_message(text, sender=sender, conversation=conversation)
    await world.endpoint.receive(received)
    await world.gateway.idle()
    return [sent.body.text for sent in world.answers(conversation)[before:]]


async def settled(world):
    for _ in range(1000):
        if not await world.gateway._controls.conversations():
            break
        await asyncio.sleep(0.01)
    await world.gateway.idle()


async def keys(world):
    return [
        record.key for part in PARTS for record in await world.store.vault.read(SCOPE + part)
    ]


def test_a_person_is_forgotten_in_every_conversation():
    async def scenario(world):
        await world.say("my canary")
        await world.say("my canary", conversation=ELSEWHERE)
        assert await world.say("/forget") == [FORGOTTEN["en"]]
        await settled(world)
        assert await world.say("what do you know?") == ["nothing"]
        assert await world.say("what do you know?", conversation=ELSEWHERE) == ["nothing"]

    in_world(scenario)


def test_nothing_but_the_account_and_routes_without_the_person_is_left():
    async def scenario(world):
        await world.say("my canary")
        await world.say("my canary", conversation=ELSEWHERE)
        await world.say("/forget")
        await settled(world)
        routes = {f"{CONVERSATION}/route", f"{ELSEWHERE}/route"}
        assert set(await keys(world)) <= {*routes, f"{PERSON}/account"}
        for place in (CONVERSATION, ELSEWHERE):
            notes = await world.gateway._notebook.load(place)
            assert (notes.route.people, notes.route.agent) == ((), "")

    in_world(scenario)


def test_what_another_person_is_remembered_for_stays():
    async def scenario(world):
        third = ConversationId("01999999-0000-7000-8000-000000000003")
        await says(world, "my canary", BOB, third)
        await world.say("my canary")
        await world.say("/forget")
        await settled(world)
        assert await says(world, "what do you know?", BOB, third) == ["something"]

    in_world(scenario)


def test_questions_of_the_person_end_everywhere_and_those_of_others_stay():
    async def scenario(world):
        await says(world, "ask me", BOB)
        await world.say("ask me")
        await world.say("ask me", conversation=ELSEWHERE)
        await world.say("/forget")
        await settled(world)
        states = [(await world.turn(n)).state for n in (1, 3)]
        assert states == ["waiting", "expired"]
        elsewhere = await world.turn(1, ELSEWHERE)
        assert (elsewhere.state, elsewhere.body, elsewhere.progress) == ("expired", b"", b"")

    in_world(scenario)


def test_turns_that_failed_keep_nothing_to_replay_of_the_person_and_of_others_all():
    async def scenario(world):
        await says(world, "fail", BOB)
        await world.say("fail", conversation=ELSEWHERE)
        assert (await world.turn(1, ELSEWHERE)).body != b""
        await world.say("/forget")
        gone, kept = await world.turn(1, ELSEWHERE), await world.turn(1)
        assert (gone.state, gone.body, gone.progress) == ("failed", b"", b"")
        assert kept.body != b""

    in_world(scenario)


def test_a_turn_that_runs_elsewhere_keeps_nothing_of_a_forgotten_person():
    async def scenario(world):
        agent = world.registry.find("agent")
        gate, begun = asyncio.Event(), asyncio.Event()

        async def slow(turn):
            if turn.conversation == ELSEWHERE:
                begun.set()
                await gate.wait()
                turn.person_memory["late"] = "canary"
            return "done"

        agent._function = slow
        late = world.write_message("my canary", conversation=ELSEWHERE)
        await world.endpoint.receive(late)
        await begun.wait()
        forget = world.write_message("/forget")
        await world.endpoint.receive(forget)
        for _ in range(10_000):
            if (await world.store.turns.find(CONVERSATION, 1)).state == "replied":
                break
            await asyncio.sleep(0)
        gate.set()
        await world.gateway.idle()
        await settled(world)
        left = [key for key in await keys(world) if key.startswith(PERSON)]
        assert left in ([], [f"{PERSON}/account"], [f"{PERSON}/{ELSEWHERE}"])

    in_world(scenario)


def test_what_was_sealed_before_does_not_open_with_what_is_left():
    async def scenario(world):
        await world.say("my canary")
        before = [
            (SCOPE + part, record)
            for part in ("", "/people", "/recall")
            for record in await world.store.vault.read(SCOPE + part)
            if not record.key.endswith(("/key", "/route", "/account"))
        ]
        assert len(before) == 4
        await world.say("/forget")
        await world.say("hello again")
        person = await world.gateway._people.load(PERSON)
        notes = await world.gateway._notebook.load(CONVERSATION)
        for scope, record in before:
            for key in (person.key, notes.key):
                with pytest.raises(SealBroken):
                    key.open(scope, record)

    in_world(scenario)


@pytest.mark.slow
def test_a_crash_at_any_moment_of_forgetting_leaves_nothing_behind():
    async def journey(deaths):
        fate = Fate()
        world = AgentWorld([make_agent()], patience=AT_ONCE, reach=reach_of(fate))
        async with world, asyncio.timeout(20):
            await world.say("my canary")
            await world.say("my canary", conversation=ELSEWHERE)
            received = world.write_message("/forget")
            fate.begin(deaths)
            work = asyncio.ensure_future(world.endpoint.receive(received))
            dying = asyncio.ensure_future(fate.dead.wait())
            await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
            idle = asyncio.ensure_future(world.gateway.idle())
            await asyncio.wait({idle, dying}, return_when=asyncio.FIRST_COMPLETED)
            moments = fate.moments
            if fate.dead.is_set():
                await world.kill()
                fate.dead.clear()
                await world.start()
                if await world.store.turns.find(CONVERSATION, received.sequence) is None:
                    await world.endpoint.receive(received)
                await world.gateway.idle()
            else:
                dying.cancel()
            await settled(world)
            assert (await world.turn(received.sequence)).state == "replied"
            told = [sent.body.text for sent in world.answers()].count(FORGOTTEN["en"])
            routes = {f"{CONVERSATION}/route", f"{ELSEWHERE}/route"}
            left = set(await keys(world)) - {*routes, f"{PERSON}/account"}
            return moments, told, left

    moments, told, left = asyncio.run(journey([]))
    assert (told, left) == (1, set())
    assert moments > 10
    for moment in range(moments):
        _, told, left = asyncio.run(journey([moment]))
        assert (told, left) == (1, set()), f"killed at moment {moment}"


@pytest.mark.slow
def test_no_file_of_the_store_holds_what_was_forgotten_nor_the_key_to_it(tmp_path):
    sealed = []

    async def on_disk(clock):
        return await open_sqlite(tmp_path, clock)

    async def scenario(world):
        await world.say("my canary")
        for part in ("", "/people", "/recall"):
            for record in await world.store.vault.read(SCOPE + part):
                if not record.key.endswith(("/route", "/account")):
                    sealed.append(record.blob)
        await world.say("/forget")
        await settled(world)

    in_world(scenario, open_store=on_disk)
    with closing(sqlite3.connect(tmp_path / "angarium.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert len(sealed) >= 6
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert content
    assert not [blob for blob in sealed if blob[:64] in content]


@pytest.mark.slow
@pytest.mark.process
def test_a_person_is_forgotten_on_mongodb_too(on_mongo):
    async def scenario(world):
        await world.say("my canary")
        await world.say("my canary", conversation=ELSEWHERE)
        await world.say("/forget")
        await settled(world)
        assert [key for key in await keys(world) if key.startswith(f"{PERSON}/")] in (
            [],
            [f"{PERSON}/account"],
        )
        assert await world.say("what do you know?") == ["nothing"]
        for name in ("records", "turns"):
            async for document in world.store_opened._link[name].find():
                assert b"canary" not in repr(document).encode()

    in_world(scenario, open_store=on_mongo)
