"""Who may work, what is taken up at the start, and how it stops."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.errors import Fenced, Forbidden, Replaced, Unauthenticated
from angarium.ids import ConversationId
from angarium.limits import LEASE_RENEW_S, LEASE_TTL_S, TURN_STALE_S
from angarium.testing.agents import CONVERSATION, AgentWorld


def agent(function):
    made = Agent("agent", "for tests", on_busy="enqueue")
    made.on_turn(function)
    return made


async def echo(turn):
    return turn.text


def run(scenario, function=echo, **settings):
    async def inside():
        async with AgentWorld([agent(function)], **settings) as world:
            await scenario(world)

    asyncio.run(inside())


def test_messages_offered_before_a_crash_are_answered_after_it():
    async def scenario(world):
        world.gateway._lanes.halt()
        for text in "abc":
            await world.endpoint.receive(world.write_message(text))
        await world.restart()
        await world.gateway.idle()
        assert [sent.body.text for sent in world.answers()] == ["a", "b", "c"]

    run(scenario)


def test_what_waited_too_long_for_a_restart_gets_no_surprise_answer():
    async def scenario(world):
        world.gateway._lanes.halt()
        await world.endpoint.receive(world.write_message("a"))
        world.clock.advance(TURN_STALE_S + 1)
        await world.restart()
        await world.gateway.idle()
        assert world.answers() == []
        assert (await world.turn(1)).reason == "stale"

    run(scenario)


def test_more_messages_than_memory_may_hold_are_all_answered():
    async def scenario(world):
        conversations = [
            ConversationId(f"01999999-0000-7000-8000-0000000001{n:02}") for n in range(4)
        ]
        for text in "abcdef":
            for conversation in conversations:
                received = world.write_message(text, conversation=conversation)
                await world.endpoint.receive(received)
        while await world.store.turns.list_open("GATEWAY1"):
            await world.gateway.idle()
            await asyncio.sleep(0)
        for conversation in conversations:
            said = "".join(sent.body.text for sent in world.answers(conversation))
            assert said == "abcdef"

    run(scenario, turns_at_once=2, turns_held_max=3)


def test_a_second_gateway_waits_until_the_first_has_closed(monkeypatch):
    monkeypatch.setattr("angarium.storage.tenure.LEASE_LOOK_S", 0.001)

    async def scenario(world):
        first = world.gateway
        second = world.make_gateway()
        opening = asyncio.ensure_future(second.open())
        await asyncio.sleep(0.01)
        assert not opening.done()
        await first.close()
        await opening
        world.gateway = second
        assert await world.say("hi") == ["hi"]

    run(scenario)


def test_a_gateway_that_was_overtaken_writes_nothing_more_and_says_so():
    reached, go_on = asyncio.Event(), asyncio.Event()
    runs = []

    async def slow(turn):
        runs.append(turn.attempt)
        if len(runs) == 1:
            reached.set()
            await go_on.wait()
        return f"run {len(runs)}"

    async def scenario(world):
        zombie, its_endpoint = world.gateway, world.endpoint
        await its_endpoint.receive(world.write_message("x"))
        await reached.wait()
        world.clock.advance(LEASE_TTL_S + 1)
        await world.start()
        await world.gateway.idle()
        go_on.set()
        await asyncio.wait_for(zombie.wait_lost(), 5)
        assert [sent.body.text for sent in world.answers()] == ["run 2"]
        with pytest.raises(Fenced):
            await its_endpoint.receive(world.write_message("y"))
        await zombie.close()

    run(scenario, slow)


def test_a_lease_that_is_gone_is_noticed_at_its_renewal(monkeypatch):
    monkeypatch.setattr("angarium.storage.tenure.LEASE_RENEW_S", 0.001)

    async def scenario(world):
        world.clock.advance(LEASE_TTL_S + 1)
        await world.store.leases.acquire(
            "mailbox/GATEWAY1", "somebody else", LEASE_TTL_S, world.clock.now_ms()
        )
        await asyncio.wait_for(world.gateway.wait_lost(), 5)

    run(scenario)


@pytest.mark.parametrize(
    "ended_by", [Replaced("4409"), Unauthenticated("4401"), Forbidden("x")]
)
def test_a_device_that_ended_is_noticed_and_its_turns_wait_for_the_next_one(ended_by):
    async def scenario(world):
        received = world.write_message("hello")
        world.gateway._lanes.halt()
        await world.endpoint.receive(received)
        world.endpoint.end(ended_by)
        world.gateway._lanes.open()
        await asyncio.wait_for(world.gateway.wait_lost(), 5)
        assert world.gateway.trouble is ended_by
        await world.gateway.close()
        assert (await world.turn(1)).state in ("offered", "running")
        await world.gateway.open()
        await world.gateway.idle()
        assert [sent.body.text for sent in world.answers()] == ["hello"]

    run(scenario)


def test_a_gateway_that_was_closed_has_no_trouble():
    async def scenario(world):
        await world.gateway.close()
        await asyncio.sleep(0)
        assert world.gateway.trouble is None

    run(scenario)


def test_the_lease_is_renewed_well_before_it_ends():
    assert LEASE_RENEW_S * 2 < LEASE_TTL_S


def test_closing_gives_running_turns_their_grace():
    async def short(turn):
        await asyncio.sleep(0.01)
        return "done"

    async def scenario(world):
        await world.endpoint.receive(world.write_message("x"))
        await asyncio.sleep(0)
        await world.gateway.close(grace_s=5)
        assert [sent.body.text for sent in world.answers()] == ["done"]

    run(scenario, short)


def test_an_interrupted_turn_goes_on_after_the_next_start():
    began = asyncio.Event()

    async def once_stuck(turn):
        if turn.attempt == 1:
            began.set()
            await asyncio.Event().wait()
        return f"attempt {turn.attempt}"

    async def scenario(world):
        await world.endpoint.receive(world.write_message("x"))
        await began.wait()
        await world.gateway.close()
        assert world.answers() == []
        await world.gateway.open()
        await world.gateway.idle()
        assert [sent.body.text for sent in world.answers()] == ["attempt 2"]
        assert (await world.turn(1)).state == "replied"

    run(scenario, once_stuck)


def test_no_task_is_left_for_idle_conversations():
    async def scenario(world):
        await world.say("x")
        await asyncio.sleep(0)
        assert world.gateway.figures() == {
            "turns_held": 0,
            "lanes_running": 0,
            "turns_done": 1,
            "turn_troubles": 0,
        }

    run(scenario)


def test_a_broken_record_is_given_up_and_the_lane_goes_on():
    async def scenario(world):
        world.gateway._lanes.halt()
        await world.endpoint.receive(world.write_message("a"))
        broken = await world.turn(1)
        from dataclasses import replace

        from angarium.storage.contract import PutTurn

        await world.store.vault.write([PutTurn(replace(broken, body=b"x" * 40))])
        await world.restart()
        assert await world.say("b") == ["b"]
        assert (await world.turn(1, CONVERSATION)).reason == "seal_broken"

    run(scenario)
