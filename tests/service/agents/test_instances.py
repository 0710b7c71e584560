"""One agent at several places: where its turns go, what one that fails or starts does."""

import asyncio
from collections import Counter

import pytest

from angarium.agents.contract import Done, Terms, Text
from angarium.agents.kinds.instances import Instances
from angarium.clock import ManualClock
from angarium.errors import Forbidden, Unavailable
from angarium.ids import ConversationId
from angarium.limits import (
    INSTANCE_AVOID_MAX_S,
    INSTANCE_AVOID_MIN_S,
    STILL_WORKING_S,
)
from angarium.testing.agents import CONVERSATION, AgentWorld


class Spot:
    """The agent at one place, as its test wants it."""

    def __init__(self, url):
        self.name, self.description, self.terms = "spread", "", Terms()
        self.url, self.done, self.trouble = url, [], None
        self.running = 0
        self.go = asyncio.Event()
        self.go.set()

    async def open(self, host):
        self.done.append("open")
        if self.trouble:
            raise self.trouble

    async def close(self):
        self.done.append("close")

    async def run(self, turn):
        self.done.append("run")
        self.running += 1
        try:
            await self.go.wait()
            if self.trouble:
                raise self.trouble
            yield Text(self.url)
            yield Done()
        finally:
            self.running -= 1


class Spread:
    """Instances, the spots they were made of, and turns run on them without a gateway."""

    def __init__(self, *urls, cold=()):
        self.spots, self.clock = {}, ManualClock()
        self.agent = Instances("spread", "", Terms(), make=self._make, clock=self.clock)
        self.agent.place(dict.fromkeys(urls, False) | dict.fromkeys(cold, True))

    def _make(self, url):
        self.spots[url] = Spot(url)
        return self.spots[url]

    async def ask(self, conversation="c"):
        turn = type("Turn", (), {"conversation": conversation})()
        events = [event async for event in self.agent.run(turn)]
        return events[0].text

    def hold(self):
        for spot in self.spots.values():
            spot.go.clear()

    def release(self):
        for spot in self.spots.values():
            spot.go.set()


def test_turns_go_where_least_is_going_on():
    async def scenario():
        spread = Spread("a", "b", "c")
        spread.hold()
        turns = [asyncio.create_task(spread.ask(f"c{number}")) for number in range(30)]
        await asyncio.sleep(0.01)
        assert [spot.running for spot in spread.spots.values()] == [10, 10, 10]

        spread.spots["a"].go.set()
        await asyncio.sleep(0.01)
        more = [asyncio.create_task(spread.ask(f"d{number}")) for number in range(9)]
        await asyncio.sleep(0.01)
        spread.release()
        assert Counter(await asyncio.gather(*turns)) == {"a": 10, "b": 10, "c": 10}
        assert set(await asyncio.gather(*more)) == {"a"}

    asyncio.run(scenario())


def test_a_conversation_keeps_to_one_instance_while_they_are_equal_and_they_share_all():
    async def scenario():
        spread = Spread("a", "b", "c")
        assert len({await spread.ask("mine") for _ in range(20)}) == 1
        shares = Counter([await spread.ask(f"c{number}") for number in range(300)])
        assert len(shares) == 3
        assert min(shares.values()) > 60

    asyncio.run(scenario())


def test_one_that_fails_is_avoided_for_a_while_that_grows_and_then_tried_again():
    async def scenario():
        spread = Spread("a", "b")
        first = await spread.ask()
        spread.spots[first].trouble = Unavailable("away")
        with pytest.raises(Unavailable):
            await spread.ask()
        assert await spread.ask() != first

        spread.clock.advance(INSTANCE_AVOID_MIN_S + 0.1)
        with pytest.raises(Unavailable):
            await spread.ask()
        spread.clock.advance(INSTANCE_AVOID_MIN_S + 0.1)
        assert await spread.ask() != first  # Twice as long now.

        spread.spots[first].trouble = None
        spread.clock.advance(INSTANCE_AVOID_MAX_S)
        assert await spread.ask() == first

    asyncio.run(scenario())


def test_a_refusal_speaks_for_an_instance_and_all_failing_none_is_refused():
    async def scenario():
        spread = Spread("a")
        spread.spots["a"].trouble = Forbidden("no")
        for _ in range(3):
            with pytest.raises(Forbidden):
                await spread.ask()
        assert not spread.agent.places()[0]["avoided"]

        spread.spots["a"].trouble = ConnectionError()
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await spread.ask()
        spread.spots["a"].trouble = None
        assert spread.agent.places()[0]["avoided"]
        assert await spread.ask() == "a"

    asyncio.run(scenario())


def test_one_that_stays_silent_until_its_turn_is_stopped_is_avoided():
    async def scenario():
        spread = Spread("a", "b")
        first = await spread.ask()
        spread.spots[first].go.clear()
        turn = asyncio.create_task(spread.ask())
        await asyncio.sleep(0)
        spread.clock.advance(spread.agent.terms.first_event_s)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)

        assert await spread.ask() != first

    asyncio.run(scenario())


def test_a_warm_instance_goes_before_one_that_would_have_to_start():
    async def scenario():
        spread = Spread("warm", cold=["x", "y", "z"])
        spread.hold()
        turns = [asyncio.create_task(spread.ask(f"c{number}")) for number in range(8)]
        await asyncio.sleep(0.01)
        spread.release()
        assert set(await asyncio.gather(*turns)) == {"warm"}

    asyncio.run(scenario())


def test_instances_that_leave_finish_their_turns_and_are_closed_then():
    async def scenario():
        spread = Spread("a")
        await spread.agent.open(None)
        spread.hold()
        turn = asyncio.create_task(spread.ask())
        await asyncio.sleep(0)

        spread.agent.place({"b": False})
        assert await spread.ask() == "b"
        assert "close" not in spread.spots["a"].done
        spread.spots["a"].go.set()

        assert await turn == "a"
        await asyncio.sleep(0)
        assert spread.spots["a"].done == ["open", "run", "close"]
        await spread.agent.close()
        assert spread.spots["b"].done[-1] == "close"

    asyncio.run(scenario())


def test_without_any_instance_it_is_away_and_not_gone():
    async def scenario():
        spread = Spread()
        with pytest.raises(Unavailable, match="no instance of spread"):
            await spread.ask()
        spread.agent.place({"a": False})
        assert await spread.ask() == "a"

    asyncio.run(scenario())


def test_it_is_warm_when_one_instance_is_and_cold_ones_are_left_alone():
    async def scenario():
        spread = Spread("a", "b", cold=["c"])
        spread.spots["a"].trouble = Unavailable("away")
        await spread.agent.open(None)
        assert "open" in spread.spots["b"].done
        assert spread.spots["c"].done == []

        spread.spots["b"].trouble = Unavailable("away")
        with pytest.raises(Unavailable):
            await spread.agent.open(None)

    asyncio.run(scenario())


@pytest.mark.slow
def test_the_person_is_told_when_an_agent_has_to_start_and_not_when_it_is_quick(monkeypatch):
    monkeypatch.setattr("angarium.agents.kinds.instances.STILL_WORKING_S", 0.05)
    assert STILL_WORKING_S == 4.0

    async def scenario():
        spread = Spread(cold=["a"])
        async with AgentWorld([spread.agent]) as world:
            spread.hold()
            await world.endpoint.receive(world.write_message("hello"))
            await asyncio.sleep(0.3)
            spread.release()
            await world.gateway.idle()
            shown = [part.body.text for part in world.endpoint.seen.parts]
            assert shown[0] == "@spread is starting; this can take a minute"
            assert [sent.body.text for sent in world.answers(CONVERSATION)] == ["a"]

            other = ConversationId("01999999-0000-7000-8000-000000000002")
            assert await world.say("again", conversation=other) == ["a"]
            said = [part.body.text for part in world.endpoint.seen.parts]
            assert said.count(shown[0]) == 1  # It has started.

    asyncio.run(scenario())
