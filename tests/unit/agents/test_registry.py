import sys

import pytest

from angarium.agents.agent import Agent
from angarium.agents.registry import Registry, load_registry
from angarium.errors import Misconfigured

TWO = """
from angarium import Agent
one, two = Agent("one", "first"), Agent("two", "second")
alias = one

@one.on_turn
async def a(turn): ...

@two.on_turn
async def b(turn): ...
"""


def load(tmp_path, text, **more):
    path = tmp_path / "agents_here.py"
    path.write_text(text)
    return load_registry(str(path), **more)


def ready(name):
    agent = Agent(name, "")

    @agent.on_turn
    async def f(turn): ...

    return agent


def test_every_agent_of_a_file_is_found_once_and_the_first_is_the_default(tmp_path):
    registry = load(tmp_path, TWO)
    assert registry.names == ("one", "two")
    assert registry.default == "one"


def test_the_default_can_be_set(tmp_path):
    assert load(tmp_path, TWO, default="two").default == "two"


def test_an_agents_list_decides_what_counts(tmp_path):
    assert load(tmp_path, TWO + "\nAGENTS = [two]").names == ("two",)


def test_a_module_is_named_with_dots(tmp_path, monkeypatch):
    (tmp_path / "dotted_agents.py").write_text(TWO)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_registry("dotted_agents").names == ("one", "two")
    del sys.modules["dotted_agents"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is no agent"),
        ("x = 1 / 0", "do not load: ZeroDivisionError"),
        ("import no_such_thing_at_all", "no module named 'no_such_thing_at_all'"),
        ("from angarium import Agent\na = Agent('a', '')", "'a' has no function"),
        ("from angarium import Agent\na = Agent('A b', '')", "lower-case letters"),
    ],
)
def test_a_file_that_cannot_serve_says_what_to_change(tmp_path, text, sentence):
    with pytest.raises(Misconfigured, match=sentence):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(Misconfigured, match=r"'nowhere/x\.py' does not exist"):
        load_registry("nowhere/x.py")


def test_two_agents_of_one_name_are_refused():
    with pytest.raises(Misconfigured, match="two agents are named 'a'"):
        Registry([ready("a"), ready("a")])


def test_an_unknown_default_lists_the_known_agents():
    with pytest.raises(Misconfigured, match=r"default_agent 'c'.*: a, b"):
        Registry([ready("a"), ready("b")], "c")


def test_a_plain_function_is_refused():
    with pytest.raises(Misconfigured, match="async def"):
        Agent("a", "").on_turn(lambda turn: "x")


def test_a_second_function_is_refused():
    async def second(turn): ...

    with pytest.raises(Misconfigured, match="two functions"):
        ready("a").on_turn(second)


def test_the_shipped_agents_load_with_the_guide_first():
    assert load_registry("angarium.examples").names == ("guide", "orders")
