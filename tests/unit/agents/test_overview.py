"""Operators see who answers, where, and how they do."""

import asyncio

from angarium.agents.agent import Agent, skill
from angarium.agents.contract import Terms
from angarium.agents.kinds.instances import Instances
from angarium.agents.overview import kind_of, overview
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.agents.warmer import Warmth
from angarium.clock import ManualClock
from angarium.resilience import BREAKER_CALLS_MIN


def ready():
    agent = Agent("orders", "Orders", skills=[skill("track", "where is it", "track it")])

    @agent.on_turn
    async def answer(turn): ...

    return agent


class Finder:
    source, version = "kubernetes 1", "abc"
    problems = {"agents/x": "the card is no JSON"}  # noqa: RUF012

    def places(self, name):
        spot = {"url": "http://10.0.0.1:80", "cold": False, "outstanding": 0, "avoided": True}
        return [spot] if name == "billing" else []


class Own:
    name, description, terms = "own", "", Terms()


def test_every_agent_is_shown_with_its_state_and_what_was_left_out_with_its_reason():
    async def scenario():
        ward, orders = Ward(ManualClock()), ready()
        billing = Instances("billing", "Bills", Terms(), make=lambda url: None, clock=None)
        registry = Registry([orders])
        registry.discover("kubernetes 1", [billing])
        for _ in range(BREAKER_CALLS_MIN):
            ward.timed_out(billing)
        async with ward.place(orders):
            warmth = {"orders": Warmth("warm"), "billing": Warmth("cold", "unavailable")}
            shown = overview(registry, warmth, ward, [Finder()])

        first, second = shown["agents"]
        assert (first["name"], first["kind"], first["source"]) == (
            "orders",
            "function",
            "declared",
        )
        assert (first["state"], first["turns"], first["breaker"]) == ("warm", 1, "closed")
        assert (first["skills"], first["examples"], first["instances"]) == (1, 2, [])
        assert (second["source"], second["state"]) == ("kubernetes 1", "cold")
        assert (second["problem"], second["breaker"]) == ("unavailable", "open")
        assert second["instances"][0]["url"] == "http://10.0.0.1:80"
        assert shown["version"] == registry.version
        assert shown["discovery"][0]["left_out"] == {"agents/x": "the card is no JSON"}

    asyncio.run(scenario())


def test_the_kind_is_the_word_that_files_use_or_the_name_of_ones_own_class():
    assert kind_of(ready()) == "function"
    assert kind_of(Own()) == "Own"
