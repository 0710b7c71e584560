"""Which message answers which question, and what an agent may do around one."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.guard import BROKEN, TOO_MANY_OPEN
from angarium.agents.replies import DISCLOSURE
from angarium.errors import Unavailable
from angarium.ids import UserId
from angarium.limits import QUESTIONS_PENDING_MAX
from angarium.testing.agents import CONVERSATION, AgentWorld

AT_ONCE = Patience(first_event_s=5, turn_s=5, retry_min_s=0, retry_max_s=0)


async def careful(turn):
    if turn.text.startswith("delete"):
        answer = await turn.ask(f"Really {turn.text}?")
        return f"{turn.text}: {answer}"
    return f"you said {turn.text}"


def in_world(scenario, function, **settings):
    agent = Agent("agent", "for tests", on_busy="enqueue")
    agent.on_turn(function)

    async def run():
        async with AgentWorld([agent], patience=AT_ONCE, **settings) as world:
            async with asyncio.timeout(10):
                await scenario(world)

    asyncio.run(run())


def said(world):
    return [sent.body.text for sent in world.answers()]


async def receive(world, *received):
    for one in received:
        await world.endpoint.receive(one)
    await world.gateway.idle()


# --- which message is the answer -------------------------------------------------------


def test_what_was_written_before_the_question_is_not_its_answer():
    async def scenario(world):
        await receive(world, world.write_message("delete all"), world.write_message("yes"))
        assert said(world) == ["Really delete all?", "you said yes"]
        assert await world.say("no") == ["delete all: no"]

    in_world(scenario, careful)


def test_what_was_written_before_the_question_is_not_its_answer_after_a_restart_either():
    async def scenario(world):
        early = world.write_message("delete all"), world.write_message("yes")
        await receive(world, early[0])
        await world.restart()
        await receive(world, early[1])
        assert said(world) == ["Really delete all?", "you said yes"]

    in_world(scenario, careful)


def test_the_newest_question_is_answered_first_and_the_older_one_next():
    async def scenario(world):
        await receive(world, world.write_message("delete a"), world.write_message("delete b"))
        assert said(world) == ["Really delete a?", "Really delete b?"]
        assert await world.say("yes") == ["delete b: yes"]
        assert await world.say("no") == ["delete a: no"]
        assert await world.say("thanks") == ["you said thanks"]

    in_world(scenario, careful)


def test_only_who_was_asked_can_answer():
    async def scenario(world):
        await world.say("delete all")
        bob = world.write_message("yes", sender=UserId("@bob:test"))
        await receive(world, bob)
        assert said(world)[1:] == ["you said yes"]
        assert await world.say("no") == ["delete all: no"]

    in_world(scenario, careful)


def test_open_questions_are_bounded_and_reset_closes_all():
    async def scenario(world):
        count = QUESTIONS_PENDING_MAX + 1
        await receive(world, *[world.write_message(f"delete {n}") for n in range(count)])
        assert said(world)[-1] == TOO_MANY_OPEN.sentence
        assert (await world.turn(count)).state == "failed"
        await world.say("/reset")
        states = [(await world.turn(n)).state for n in range(1, count)]
        assert states == ["expired"] * QUESTIONS_PENDING_MAX
        assert await world.say("yes") == ["you said yes"]

    in_world(scenario, careful)


# --- what must not stop at a question --------------------------------------------------


def test_an_answered_turn_goes_on_after_the_store_was_away(monkeypatch):
    monkeypatch.setattr("angarium.agents.gateway.TURN_RETRY_MIN_S", 0)

    async def scenario(world):
        await world.say("delete all")
        runner = world.gateway._dispatcher._runner
        real, failed = runner.run, []

        async def away_once(turn):
            if not failed:
                failed.append(turn)
                raise Unavailable("for a moment")
            await real(turn)

        monkeypatch.setattr(runner, "run", away_once)
        assert await world.say("yes") == ["delete all: yes"]
        assert failed

    in_world(scenario, careful)


def test_an_answered_turn_that_fails_is_apologised_for(monkeypatch):
    async def scenario(world):
        await world.say("delete all")

        async def defect(turn):
            raise LookupError("a defect of ours")

        monkeypatch.setattr(world.gateway._dispatcher._runner, "run", defect)
        assert await world.say("yes") == [BROKEN.sentence]
        assert (await world.turn(1, CONVERSATION)).state == "failed"

    in_world(scenario, careful)


def test_a_question_may_be_asked_inside_a_task_group():
    async def grouped(turn):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(turn.ask("Which?"))
        return f"so {asking.result()}"

    async def scenario(world):
        assert await world.say("go") == ["Which?"]
        assert await world.say("this") == ["so this"]

    in_world(scenario, grouped)


# --- what an agent does must not end its lane ------------------------------------------


async def waits_for_a_cancelled_task(turn):
    task = asyncio.create_task(asyncio.sleep(0))
    task.cancel()
    await task


async def exits(turn):
    raise SystemExit(1)


async def raises_a_group(turn):
    raise BaseExceptionGroup("several", [KeyboardInterrupt()])


@pytest.mark.parametrize("breaks", [waits_for_a_cancelled_task, exits, raises_a_group])
def test_an_agent_that_breaks_oddly_gets_an_apology_and_the_next_message_its_answer(breaks):
    async def sometimes(turn):
        return await breaks(turn) if turn.text == "break" else "fine"

    async def scenario(world):
        assert await world.say("break") == [BROKEN.sentence]
        assert await world.say("again") == ["fine"]

    in_world(scenario, sometimes)


def test_a_contact_is_told_once_of_the_agent_also_with_a_question():
    async def scenario(world):
        first = await world.say("delete all", via="twilio")
        assert first == [f"{DISCLOSURE}\n\nReally delete all?"]
        assert await world.say("yes", via="twilio") == ["delete all: yes"]

    in_world(scenario, careful)
