"""The registry while it lives: what changes, who is told, what stays."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.agents.declared import Declared, Kubernetes, Routing
from angarium.agents.registry import Registry
from angarium.errors import Misconfigured
from angarium.limits import AGENTS_MAX


def agent(name, description="", **terms):
    made = Agent(name, description, **terms)

    @made.on_turn
    async def answer(turn): ...

    return made


FINDS = Declared((), discovery=(Kubernetes(),))


def test_a_replaced_agent_is_found_and_the_old_roster_stays_as_it_was():
    registry = Registry([agent("a")])
    before, newer = registry.roster, agent("a")

    registry.declare([newer, agent("b")])

    assert registry.find("a") is newer
    assert tuple(before.agents) == ("a",)
    assert before.agents["a"] is not newer


def test_a_change_that_makes_no_sense_changes_nothing():
    registry = Registry([agent("a")])
    before = registry.roster

    with pytest.raises(Misconfigured):
        registry.declare([agent("a"), agent("a")])

    assert registry.roster is before


@pytest.mark.parametrize(
    "other",
    [
        [agent("a"), agent("b")],
        [agent("a", "of another kind")],
        [agent("a", examples=["hello"])],
        [agent("a", channels=["app"])],
        Declared([agent("a")], Routing(fallback="a")),
    ],
)
def test_the_version_follows_from_what_routing_goes_by(other):
    registry = Registry([agent("a")])
    assert Registry([agent("a")]).version == registry.version  # Another node has the same.
    before = registry.version

    registry.declare(other)

    assert registry.version != before


def test_who_waits_for_a_change_gets_the_new_roster_and_not_before():
    async def scenario():
        registry = Registry([agent("a")])
        waiting = asyncio.create_task(registry.wait_changed(registry.version))
        await asyncio.sleep(0)
        registry.declare([agent("a")])  # New code, and the same for routing.
        await asyncio.sleep(0)
        assert not waiting.done()

        registry.declare([agent("b")])

        assert tuple((await waiting).agents) == ("b",)
        assert (await registry.wait_changed("another")) is registry.roster

    asyncio.run(scenario())


def test_what_an_agent_learns_about_itself_is_a_change():
    registry, heard = Registry([agent("a")]), []
    registry.subscribe(heard.append)
    registry.refresh()
    assert not heard

    registry.find("a").description = "says what its card says"
    registry.refresh()

    assert len(heard) == 1


def test_subscribers_hear_each_change_until_they_stop():
    registry, heard = Registry([agent("a")]), []
    stop = registry.subscribe(lambda roster: heard.append(tuple(roster.agents)))

    registry.declare([agent("b")])
    stop()
    registry.declare([agent("c")])

    assert heard == [("b",)]


def test_discovered_agents_follow_declared_ones_and_never_take_their_names():
    registry = Registry([agent("a")])
    own = registry.find("a")

    registry.discover("kubernetes", [agent("a"), agent("z")])

    assert registry.names == ("a", "z")
    assert registry.find("a") is own


def test_discovered_agents_outlive_a_reload_and_leave_when_they_are_found_no_more():
    registry = Registry([agent("a")])
    registry.discover("kubernetes", [agent("z")])

    registry.declare([agent("b")])
    assert registry.names == ("b", "z")

    registry.discover("kubernetes", [])
    assert registry.names == ("b",)


def test_with_discovery_there_may_be_nobody_yet_and_the_default_comes_later():
    registry = Registry(FINDS, "z")
    assert (registry.names, registry.default) == ((), "")

    registry.discover("kubernetes", [agent("y")])
    assert registry.default == "y"

    registry.discover("kubernetes", [agent("y"), agent("z")])
    assert registry.default == "z"


def test_more_agents_than_a_node_holds_are_refused_or_left_out():
    many = [agent(f"a{number}") for number in range(AGENTS_MAX + 1)]
    with pytest.raises(Misconfigured, match="too many"):
        Registry(many)

    registry = Registry(FINDS)
    registry.discover("kubernetes", many)

    assert len(registry.names) == AGENTS_MAX
