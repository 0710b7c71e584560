"""Agents are opened before their turns and closed after their last one."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from angarium.agents.contract import Done, Terms, Text
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.agents.warmer import Warmer
from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.limits import AGENT_OPENS_AT_ONCE
from angarium.testing.agents import AgentWorld


class Kept:
    """An agent that records what is done to it; `trouble` is raised by its next opens."""

    def __init__(self, name, trouble=(), hangs=False):
        self.name, self.description, self.terms = name, "", Terms()
        self.trouble, self.hangs = list(trouble), hangs
        self.says, self.done, self.tasks, self.asked = "", [], set(), asyncio.Event()
        self.answer, self.opened = asyncio.Event(), asyncio.Event()

    async def open(self, host):
        self.tasks.add(asyncio.current_task())
        self.done.append("open")
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble:
            raise self.trouble.pop(0)
        self.opened.set()

    async def close(self):
        self.tasks.add(asyncio.current_task())
        self.done.append("close")

    async def run(self, turn):
        self.asked.set()
        await self.answer.wait()
        yield Text(self.says)
        yield Done()


@asynccontextmanager
async def warmed(*agents):
    registry, ward = Registry(agents), Ward(ManualClock())
    warmer = Warmer(registry, ward)
    await warmer.start(0.2)
    try:
        yield registry, ward, warmer
    finally:
        await warmer.close()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_every_agent_is_open_when_the_node_starts_and_closed_by_the_same_task():
    async def scenario():
        one, two = Kept("one"), Kept("two")
        async with warmed(one, two) as (_, _, warmer):
            assert {name: each.state for name, each in warmer.warmth().items()} == {
                "one": "warm",
                "two": "warm",
            }
        assert one.done == two.done == ["open", "close"]
        assert len(one.tasks) == len(two.tasks) == 1

    asyncio.run(scenario())


def test_agents_that_hang_hold_up_neither_the_start_nor_the_stop():
    async def scenario():
        hang = [Kept(f"a{number}", hangs=True) for number in range(AGENT_OPENS_AT_ONCE + 5)]
        async with asyncio.timeout(5), warmed(*hang) as (_, _, warmer):
            assert {each.state for each in warmer.warmth().values()} == {"opening"}
            assert sum(len(agent.done) for agent in hang) == AGENT_OPENS_AT_ONCE

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "trouble", [Unavailable("away"), ValueError("x"), asyncio.CancelledError()]
)
def test_one_that_does_not_open_is_told_closed_and_opened_again(monkeypatch, trouble):
    monkeypatch.setattr("angarium.agents.warmer.AGENT_REOPEN_MIN_S", 0.05)

    async def scenario():
        one = Kept("one", [trouble])
        async with warmed(one) as (_, _, warmer):
            known = warmer.warmth()["one"]
            assert known.state == "cold"
            assert known.problem in ("unavailable", "ValueError", "CancelledError")
            async with asyncio.timeout(5):
                await one.opened.wait()
            assert warmer.warmth()["one"].state == "warm"
            assert one.done == ["open", "close", "open"]

    asyncio.run(scenario())


def test_a_replaced_agent_is_closed_only_after_its_last_turn():
    async def scenario():
        old, new = Kept("one"), Kept("one")
        async with warmed(old) as (registry, ward, _):
            async with ward.place(old):
                registry.declare([new])
                await settle()
                assert (old.done, new.done) == (["open"], ["open"])
            await settle()
            assert old.done == ["open", "close"]

    asyncio.run(scenario())


def test_one_that_leaves_and_comes_back_is_closed_before_it_opens():
    async def scenario():
        one, other = Kept("one"), Kept("other")
        async with warmed(one) as (registry, _, warmer):
            registry.declare([other])
            registry.declare([one])
            await settle()
            assert one.done == ["open", "close", "open"]
            assert list(warmer.warmth()) == ["one"]

    asyncio.run(scenario())


def test_a_running_turn_ends_on_the_old_agent_and_the_next_one_meets_the_new():
    async def scenario():
        old, new = Kept("one"), Kept("one")
        old.says, new.says = "old", "new"
        new.answer.set()
        async with AgentWorld([old]) as world:
            await world.endpoint.receive(world.write_message("hello"))
            await old.asked.wait()
            world.registry.declare([new])
            old.answer.set()
            await world.gateway.idle()
            assert [sent.body.text for sent in world.answers()] == ["old"]

            assert await world.say("again") == ["new"]
        assert old.done == new.done == ["open", "close"]

    asyncio.run(scenario())
