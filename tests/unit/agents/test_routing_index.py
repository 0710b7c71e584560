import numpy as np
import pytest

from angarium.agents.routing.embedders import unit_rows
from angarium.agents.routing.index import ExampleIndex
from angarium.agents.routing.lint import Example

DIM = 16
NONE = np.zeros((0, DIM), np.float32)


def cloud(seed, towards, count, spread=0.35):
    """`count` unit rows around one axis."""
    rows = np.random.default_rng(seed).normal(size=(count, DIM)) * spread / np.sqrt(DIM)
    rows[:, towards] += 1
    return unit_rows(rows)


def make(*counts, nobody=NONE, keep=0.95, unlike=0.0, spread=0.35):
    examples = [
        Example(f"agent{n}", f"{n}/{row}")
        for n, count in enumerate(counts)
        for row in range(count)
    ]
    vectors = np.concatenate([cloud(n, n, count, spread) for n, count in enumerate(counts)])
    return ExampleIndex(examples, vectors, nobody, keep=keep, unlike=unlike)


def axis(n):
    return np.eye(DIM, dtype=np.float32)[n]


ALL = ("agent0", "agent1", "agent2")


def test_the_agent_with_the_likest_examples_wins_and_one_is_named():
    guess = make(8, 8, 8).look(axis(1), ALL)

    assert guess.agent == "agent1"
    assert guess.example.startswith("1/")
    assert guess.nearest > 0.9
    assert guess.fits


def test_an_agent_with_more_examples_has_no_advantage_from_their_number():
    between = unit_rows((axis(0) + 0.7 * axis(1))[None])[0]

    assert make(60, 6, spread=0.8).look(between, ALL).agent == "agent1"


def test_an_agent_that_is_not_allowed_is_not_chosen():
    index = make(8, 8, 8)

    assert index.look(axis(1), ("agent0", "agent2")).agent != "agent1"
    assert index.look(axis(1), ("nobody",)) is None


def test_shares_are_parts_of_one_and_tell_of_the_agent_that_has_the_conversation():
    guess = make(8, 8, 8).look(axis(1), ALL, "agent2")

    assert 0 < guess.kept_share < guess.share < 1


def test_what_is_like_nothing_does_not_fit():
    assert not make(8, 8, 8).look(axis(9), ALL).fits


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.95, 1.0])
def test_the_bound_lets_the_wanted_share_of_fitting_messages_through(keep):
    index = make(40, 40, 40, keep=keep, spread=0.9)
    fresh = [
        index.look(row, ALL).fits
        for n in range(3)
        for row in cloud(100 + n, n, 200, spread=0.9)
    ]

    assert sum(fresh) / len(fresh) == pytest.approx(keep, abs=0.06)


def test_with_few_examples_three_quarters_of_what_is_for_nobody_does_not_fit():
    apart = unit_rows((0.35 * axis(0) + axis(5))[None])[0]
    strangers = unit_rows(
        np.stack([share * axis(0) + axis(6) for share in np.linspace(0, 0.5, 9)])
    )
    lone = {"examples": [Example("agent0", "a"), Example("agent1", "b")], "keep": 0.95}
    vectors = np.stack([axis(0), axis(1)])

    without = ExampleIndex(vectors=vectors, nobody=NONE, **lone)
    against = ExampleIndex(vectors=vectors, nobody=strangers, **lone)

    assert without.look(apart, ALL).fits
    assert not against.look(strangers[5], ALL).fits
    assert against.look(strangers[-1], ALL).fits


def test_what_an_agent_is_for_after_all_is_not_held_against_it():
    index = make(8, 8, nobody=cloud(0, 0, 5))

    assert index.bound == make(8, 8).bound


def test_the_cosine_of_unrelated_texts_counts_as_nothing():
    index = make(8, 8, unlike=0.77)
    message = unit_rows((axis(0) + 0.2 * axis(7))[None])[0]

    assert index.look(message, ALL).nearest < make(8, 8).look(message, ALL).nearest
    assert index.look(axis(9), ALL).nearest == 0.0


def test_each_example_is_tried_against_the_others_only():
    index = make(8, 8)
    tried = index.try_all()

    assert [one.guess for one in tried] == [one.example.agent for one in tried]
    assert all(one.like != one.example.text for one in tried)


def test_one_example_alone_and_none_at_all_are_no_trouble():
    assert make(1).look(axis(0), ALL).agent == "agent0"
    empty = ExampleIndex([], NONE, NONE, keep=0.95)
    assert empty.look(axis(0), ALL) is None


def test_a_small_agent_beside_a_large_one_finds_its_own_examples():
    towards = unit_rows((axis(0) + 0.3 * axis(1))[None])[0]
    small = unit_rows(cloud(1, 0, 6) - axis(0) + towards)
    vectors = np.concatenate([cloud(0, 0, 60), small])
    examples = [Example("agent0", str(n)) for n in range(60)]
    examples += [Example("agent1", str(n)) for n in range(6)]

    tried = ExampleIndex(examples, vectors, NONE, keep=0.95).try_all()

    assert {one.guess for one in tried if one.example.agent == "agent1"} == {"agent1"}
