import pytest

from angarium.agents.agent import Agent
from angarium.agents.declared import Routing
from angarium.agents.routing.lint import FEW, Example, Tried, lint

MANY = tuple(f"example {n}" for n in range(FEW))


def agent(name, *examples, **terms):
    return Agent(name, name, examples=examples, **terms)


def said(agents, tried=None, routing=None, level=None):
    report = lint(agents, agents[0].name, routing or Routing(), tried)
    return [f.sentence for f in report.findings if level in (None, f.level)]


def tried(agent, guess, count, nearest=0.5):
    return [Tried(Example(agent, f"{agent} {n}"), guess, "like", nearest) for n in range(count)]


def test_agents_with_enough_and_different_examples_give_no_finding():
    other = tuple(f"other {n}" for n in range(FEW))
    agents = [agent("a", *MANY), agent("b", *other)]

    report = lint(agents, "a", Routing(), tried("a", "a", 20) + tried("b", "b", 20))

    assert report.findings == ()
    assert report.found == 1.0
    assert not report.has_errors


def test_the_same_example_of_two_agents_is_an_error_whatever_its_case_and_marks():
    agents = [agent("a", *MANY, "Where is it?"), agent("b", *MANY[:0], "where is it")]

    assert said(agents, level="error") == ['a and b have the same example "where is it"']


def test_a_fallback_that_is_no_agent_is_an_error():
    agents = [agent("a", fallback="gone"), agent("b")]
    found = said(agents, routing=Routing(fallback="nobody"), level="error")

    assert [sentence.split(":")[0] for sentence in found] == ["routing", "a"]
    assert said([agent("a", fallback="b"), agent("b")], level="error") == []


def test_who_may_not_be_handed_to_is_a_warning():
    agents = [agent("a", can_handoff=["human", "gone", "*"]), agent("b")]

    assert "gone" in said(agents, level="warning")[0]


def test_few_and_no_examples_are_warnings_but_not_for_the_fallback_or_one_agent_alone():
    agents = [agent("default"), agent("few", *MANY[:3]), agent("none"), agent("host")]
    found = said(agents, routing=Routing(fallback="host"))

    assert [sentence.split(":")[0] for sentence in found] == ["few", "none"]
    assert said([agent("only")]) == []


@pytest.mark.parametrize(("wrong", "found"), [(1, 0), (2, 1), (5, 1)])
def test_agents_are_confusable_when_a_tenth_of_the_examples_and_two_go_wrong(wrong, found):
    agents = [agent("a", *MANY), agent("b", *(f"other {n}" for n in range(FEW)))]
    cases = tried("a", "a", 20 - wrong) + tried("a", "b", wrong) + tried("b", "b", 20)

    sentences = said(agents, cases, level="warning")

    assert len(sentences) == found
    if found:
        assert f"a and b are confusable: {wrong} of 20" in sentences[0]


def test_shares_are_told_for_each_agent_and_for_all():
    agents = [agent("a", *MANY), agent("b", "x"), agent("c")]
    report = lint(agents, "a", Routing(), tried("a", "a", 3) + tried("a", "b", 1))

    assert [(row.agent, row.found) for row in report.rows] == [
        ("a", 0.75), ("b", None), ("c", None),
    ]  # fmt: skip
    assert report.found == 0.75
    assert lint(agents, "a", Routing(), None).found is None
