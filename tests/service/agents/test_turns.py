"""What people see of agents: the real gateway on a real store, no network."""

import asyncio
from dataclasses import replace

import pytest

from angarium.agents.agent import Agent, ask, handoff
from angarium.agents.attempt import Patience
from angarium.agents.contract import Status
from angarium.agents.guard import (
    BROKEN,
    CUT_NOTE,
    IN_CIRCLES,
)
from angarium.agents.replies import DISCLOSURE
from angarium.e2ee.body import Body
from angarium.ids import ConversationId, reply_key
from angarium.limits import (
    HISTORY_EXCHANGES_MAX,
    PART_CHARS_MAX,
    QUESTION_KEPT_S,
    REPLY_BYTES_MAX,
    TURN_STALE_S,
)
from angarium.testing.agents import CONVERSATION, AgentWorld

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


def returns(value):
    async def do(_key):
        return value

    return do


# --- replies -------------------------------------------------------------------------


def test_a_message_gets_one_reply_that_names_it():
    async def scenario(world):
        assert await world.say("hi") == ["you said hi"]
        (sent,) = world.answers()
        assert sent.key == reply_key(CONVERSATION, 1, "echo", 0)
        assert (sent.body.agent, sent.body.ref) == (
            "echo",
            world.relay.log[CONVERSATION][0].key,
        )
        turn = await world.turn(1)
        assert (turn.state, turn.reason, turn.attempts) == ("replied", "default", 1)

    in_world(scenario, echo)


def test_a_finished_turn_keeps_no_text():
    async def scenario(world):
        await world.say("hi")
        turn = await world.turn(1)
        assert (turn.body, turn.progress) == (b"", b"")

    in_world(scenario, echo)


def test_nothing_the_store_holds_of_a_running_turn_is_readable():
    canary = "pomegranate"
    seen = []

    async def slow(turn):
        await turn.tools.call(canary, "keyed", returns(canary))
        seen.append(await world_of[0].turn(1))
        turn.memory[canary] = canary
        return "ok"

    world_of = []

    async def scenario(world):
        world_of.append(world)
        await world.say(canary)
        records = [
            record
            for part in ("", "/people", "/recall", "/places")
            for record in await world.store.vault.read(f"gateway/GATEWAY1{part}")
        ]
        held = [seen[0].body, seen[0].progress, *(record.blob for record in records)]
        assert len(held) == 9  # Keys of two owners, route, memory, count, exchange, place.
        assert not [blob for blob in held if canary.encode() in blob]

    in_world(scenario, slow)


def test_a_generator_replies_with_all_it_yielded():
    async def pieces(turn):
        yield "one "
        yield Status("thinking")
        yield "two"

    async def scenario(world):
        assert await world.say("go") == ["one two"]

    in_world(scenario, pieces)


def test_an_agent_may_say_nothing():
    async def silent(turn):
        return None

    async def scenario(world):
        assert await world.say("hi") == []
        assert (await world.turn(1)).state == "replied"

    in_world(scenario, silent)


def test_a_reply_over_the_bound_is_cut_with_a_note():
    async def verbose(turn):
        for _ in range(100):
            yield "x" * 1000

    async def scenario(world):
        (text,) = await world.say("go")
        assert text.endswith(CUT_NOTE)
        assert len(text.encode()) <= REPLY_BYTES_MAX

    in_world(scenario, verbose)


def test_messages_of_a_conversation_are_answered_in_order():
    async def uneven(turn):
        await asyncio.sleep(0.01 if turn.text == "1" else 0)
        return turn.text

    async def scenario(world):
        for text in "123":
            await world.endpoint.receive(world.write_message(text))
        await world.gateway.idle()
        assert [sent.body.text for sent in world.answers()] == ["1", "2", "3"]

    in_world(scenario, uneven, terms={"on_busy": "enqueue"})


def test_conversations_do_not_wait_for_each_other():
    both = asyncio.Barrier(2)

    async def meets(turn):
        await both.wait()  # Passes only when two turns run at once.
        return "met"

    async def scenario(world):
        others = [ConversationId(f"01999999-0000-7000-8000-00000000000{n}") for n in (2, 3)]
        answers = await asyncio.gather(*(world.say("hi", conversation=c) for c in others))
        assert answers == [["met"], ["met"]]

    in_world(scenario, meets)


@pytest.mark.parametrize(
    "change",
    [
        {"own": True},
        {"problem": "undecryptable", "addressed": False},
        {"problem": "undecryptable", "own": True},
        {"problem": "replayed"},
        {"body": Body(type="system", text="x")},
        {"body": Body(text="  ")},
    ],
)
def test_what_is_not_a_persons_message_is_not_answered(change):
    async def scenario(world):
        await world.endpoint.receive(replace(world.write_message("x"), **change))
        await world.gateway.idle()
        assert world.answers() == []
        assert await world.store.turns.find(CONVERSATION, 1) is None

    in_world(scenario, echo)


def test_a_message_received_too_late_is_not_answered():
    async def scenario(world):
        late = world.write_message("hi")
        world.clock.advance(TURN_STALE_S + 1)
        await world.endpoint.receive(late)
        await world.gateway.idle()
        assert world.answers() == []
        assert (await world.turn(1)).state == "expired"

    in_world(scenario, echo)


def test_the_message_is_marked_read_and_typing_ends():
    async def scenario(world):
        await world.say("hi")
        assert world.endpoint.seen.read == [(CONVERSATION, 1)]
        assert world.endpoint.seen.typing == [(CONVERSATION, True), (CONVERSATION, False)]

    in_world(scenario, echo)


def test_people_on_a_channel_are_told_once_that_an_agent_answers():
    async def scenario(world):
        assert await world.say("hi", via="WhatsApp") == [f"{DISCLOSURE}\n\nyou said hi"]
        await world.restart()
        assert await world.say("again", via="WhatsApp") == ["you said again"]
        await world.say("/reset", via="WhatsApp")
        assert await world.say("more", via="WhatsApp") == ["you said more"]

    in_world(scenario, echo)


# --- routing -------------------------------------------------------------------------


async def one(turn):
    return f"one: {turn.text}"


async def two(turn):
    return f"two: {turn.text}"


def test_a_mention_switches_and_the_conversation_stays():
    async def scenario(world):
        assert await world.say("a") == ["one: a"]
        assert await world.say("@two b") == ["two: b"]
        await world.restart()
        assert await world.say("c") == ["two: c"]
        assert (await world.turn(5)).reason == "sticky"

    in_world(scenario, one, two)


def test_a_mention_alone_is_confirmed():
    async def scenario(world):
        assert await world.say("@two") == ["You are now talking to @two: two for tests"]
        assert await world.say("x") == ["two: x"]

    in_world(scenario, one, two)


def test_agents_are_listed_by_the_gateway():
    async def scenario(world):
        (text,) = await world.say("/agents")
        assert "@one: one for tests\n@two: two for tests" in text

    in_world(scenario, one, two)


def test_a_handoff_answers_the_same_message_with_another_agent():
    async def first(turn):
        yield "never said"
        yield handoff("two", "not mine")

    async def scenario(world):
        assert await world.say("x") == ["two: x"]
        turn = await world.turn(1)
        assert (turn.agent, turn.reason) == ("two", "handoff from first")
        assert await world.say("y") == ["two: y"]

    in_world(scenario, first, two)


def test_agents_that_pass_a_message_round_are_stopped():
    async def ping(turn):
        return handoff("pong")

    async def pong(turn):
        return handoff("ping")

    async def scenario(world):
        assert await world.say("x") == [IN_CIRCLES.sentence]

    in_world(scenario, ping, pong)


# --- memory --------------------------------------------------------------------------


async def count(turn):
    turn.memory["seen"] = turn.memory.get("seen", 0) + 1
    return f"{turn.memory['seen']} after {len(turn.history)}"


def test_memory_and_history_survive_a_restart():
    async def scenario(world):
        assert await world.say("a") == ["1 after 0"]
        await world.restart()
        assert await world.say("b") == ["2 after 2"]

    in_world(scenario, count)


def test_memory_is_kept_per_conversation_and_reset_forgets_it():
    async def scenario(world):
        other = ConversationId("01999999-0000-7000-8000-000000000009")
        await world.say("a")
        assert await world.say("a", conversation=other) == ["1 after 0"]
        await world.say("/reset")
        assert await world.say("b") == ["1 after 0"]
        assert await world.say("b", conversation=other) == ["2 after 2"]

    in_world(scenario, count)


def test_history_is_bounded():
    async def scenario(world):
        for _ in range(HISTORY_EXCHANGES_MAX + 3):
            await world.say("a")
        (text,) = await world.say("a")
        assert text.endswith(f"after {2 * HISTORY_EXCHANGES_MAX}")

    in_world(scenario, count)


def test_memory_that_cannot_be_kept_fails_the_turn_and_changes_nothing():
    async def odd(turn):
        turn.memory["bad"] = object() if turn.text == "bad" else 1
        return str(len(turn.memory))

    async def scenario(world):
        assert await world.say("bad") == [BROKEN.sentence]
        assert await world.say("good") == ["1"]

    in_world(scenario, odd)


# --- questions -----------------------------------------------------------------------


async def booking(turn):
    people = await ask(turn, "For how many?")
    yield "Fine. "
    when = await turn.ask("When?", options=["19:00", "20:30"])
    yield f"{people} at {when}"


def test_a_question_waits_through_a_restart_and_is_asked_once():
    async def scenario(world):
        assert await world.say("a table") == ["For how many?"]
        await world.restart()
        assert await world.say("4") == ["Fine.\n\nWhen?"]
        await world.restart()
        assert await world.say("2") == ["4 at 20:30"]
        assert [sent.body.type for sent in world.answers()] == ["question", "question", "text"]
        assert world.answers()[1].body.options == ["19:00", "20:30"]

    in_world(scenario, booking)


def test_an_answer_is_recorded_as_one_and_the_reply_belongs_to_the_question():
    async def scenario(world):
        await world.say("a table")
        await world.say("4")
        await world.say("1")
        assert [(await world.turn(n)).reason for n in (1, 3, 5)] == [
            "default",
            "answers 1",
            "answers 1",
        ]
        last = world.answers()[-1]
        assert last.key == reply_key(CONVERSATION, 1, "booking", 0)
        assert last.body.ref == world.relay.log[CONVERSATION][4].key

    in_world(scenario, booking)


def test_reset_is_the_way_out_of_a_question():
    async def scenario(world):
        await world.say("a table")
        await world.say("/reset")
        assert (await world.turn(1)).state == "expired"
        assert await world.say("4") == ["For how many?"]

    in_world(scenario, booking)


def test_an_answer_that_comes_much_too_late_is_a_new_message():
    async def scenario(world):
        await world.say("a table")
        world.clock.advance(QUESTION_KEPT_S + 1)
        await world.restart()
        assert await world.say("4") == ["For how many?"]
        assert (await world.turn(1)).reason == "no answer"

    in_world(scenario, booking)


def test_an_agents_catch_all_does_not_swallow_a_question():
    async def careless(turn):
        try:
            return await turn.ask("Sure?")
        except Exception:
            return "swallowed"

    async def scenario(world):
        assert await world.say("x") == ["Sure?"]
        assert await world.say("yes") == ["yes"]

    in_world(scenario, careless)


def test_the_second_agent_of_a_handoff_asks_for_itself():
    async def first(turn):
        await turn.ask("first?")
        return handoff("second")

    async def second(turn):
        return await turn.ask("second?")

    async def scenario(world):
        assert await world.say("x") == ["first?"]
        assert await world.say("a") == ["second?"]
        assert await world.say("b") == ["b"]

    in_world(scenario, first, second)


# --- parts ---------------------------------------------------------------------------


def test_pieces_are_sent_under_the_key_of_the_question_and_numbered():
    async def pieces(turn):
        yield "a" * PART_CHARS_MAX
        await turn.tools.status("looking")
        yield "b" * PART_CHARS_MAX

    async def scenario(world):
        await world.say("go")
        parts = world.endpoint.seen.parts
        assert [part.index for part in parts] == [0, 1, 2]
        assert [part.body.type for part in parts] == ["text", "status", "text"]
        assert {part.stream for part in parts} == {bytes([1]) * 32}
        assert {part.ref for part in parts} == {world.answers()[0].body.ref}

    in_world(scenario, pieces)


def test_small_pieces_are_joined():
    async def letters(turn):
        for letter in "abc" * PART_CHARS_MAX:
            yield letter

    async def scenario(world):
        (text,) = await world.say("go")
        parts = [part.body.text for part in world.endpoint.seen.parts]
        assert len(parts) <= 4
        assert text.startswith("".join(parts))

    in_world(scenario, letters)


def test_the_key_of_parts_survives_a_restart():
    async def scenario(world):
        await world.say("a table")
        await world.restart()
        await world.say("4")
        await world.restart()
        await world.say("1")
        assert {part.stream for part in world.endpoint.seen.parts} <= {bytes([3]) * 32}

    in_world(scenario, booking)
