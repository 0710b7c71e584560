"""With a model of the test that counts letters."""

import asyncio

import numpy as np
import pytest

from angarium.agents.agent import Agent
from angarium.agents.registry import Registry
from angarium.agents.routing.classifier import Classifier, examples_of
from angarium.agents.routing.nobody import NOBODY
from angarium.agents.routing.worker import EmbedWorker
from angarium.errors import Misconfigured


class Letters:
    dim, unlike = 26, 0.0

    def __init__(self):
        self.read = []

    def embed(self, texts):
        self.read += texts
        rows = np.array([[text.count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def agent(name, *examples):
    made = Agent(name, name, examples=examples)

    @made.on_turn
    async def answer(turn):
        return name

    return made


def run(scenario, model=None):
    async def inside():
        letters = model or Letters()
        worker = EmbedWorker("letters", lambda: letters)
        classifier = Classifier(worker)
        try:
            await scenario(classifier, letters)
        finally:
            await classifier.close()
            await worker.close()

    asyncio.run(inside())


A, B, C = agent("a", "aaaa", "aaab"), agent("b", "bbbb", "bbba"), agent("c", "cccc")


def test_before_examples_are_read_it_says_nothing():
    async def scenario(classifier, letters):
        assert await classifier.guess("aaaa", ["a"], "") is None
        assert classifier.version == ""

    run(scenario)


def test_it_finds_the_agent_whose_examples_are_like_the_text():
    async def scenario(classifier, letters):
        classifier.update(Registry([A, B]).roster)
        await classifier.ready()
        assert (await classifier.guess("abaa", ["a", "b"], "")).agent == "a"
        assert (await classifier.guess("abaa", ["b"], "")).agent == "b"

    run(scenario)


def test_after_a_change_only_new_examples_are_read_and_the_old_ones_serve_meanwhile():
    async def scenario(classifier, letters):
        classifier.update(Registry([A, B]).roster)
        await classifier.ready()
        before, letters.read = classifier.version, []
        classifier.update(Registry([A, B, C]).roster)
        assert (await classifier.guess("abaa", ["a", "b"], "")).agent == "a"
        await classifier.ready()
        assert letters.read.count("cccc") == 1
        assert not {"aaaa", "bbbb", NOBODY[0]} & set(letters.read)
        assert classifier.version != before
        assert (await classifier.guess("cccc", ["a", "b", "c"], "")).agent == "c"

    run(scenario)


def test_agents_that_change_while_others_are_read_are_read_after_them():
    async def scenario(classifier, letters):
        classifier.update(Registry([A, B]).roster)
        await asyncio.sleep(0)
        classifier.update(Registry([B, C]).roster)
        await classifier.ready()
        assert (await classifier.guess("cccc", ["b", "c"], "")).agent == "c"

    run(scenario)


def test_the_same_agents_are_not_read_again():
    async def scenario(classifier, letters):
        for _ in range(2):
            classifier.update(Registry([A, B]).roster)
            await classifier.ready()
        assert letters.read.count("aaaa") == 1

    run(scenario)


@pytest.mark.parametrize("agents", [[A], [agent("x"), agent("y")]])
def test_where_there_is_nothing_to_choose_by_no_model_is_loaded(agents):
    async def scenario(classifier, letters):
        classifier.update(Registry(agents).roster)
        await classifier.ready()
        assert letters.read == []
        assert await classifier.guess("aaaa", ["a", "x"], "") is None

    run(scenario)


def test_a_model_that_does_not_load_says_so_to_who_waits():
    def load():
        raise Misconfigured("no such file")

    async def scenario():
        worker = EmbedWorker("none", load)
        classifier = Classifier(worker)
        classifier.update(Registry([A, B]).roster)
        with pytest.raises(Misconfigured, match="no such file"):
            await classifier.ready()
        await classifier.close()
        await worker.close()

    asyncio.run(scenario())


def test_examples_that_failed_to_be_read_are_tried_again(monkeypatch):
    monkeypatch.setattr("angarium.agents.routing.classifier.ROUTE_REBUILD_RETRY_S", 0.0)

    async def scenario():
        letters = Letters()
        worker = EmbedWorker("letters", lambda: letters, waiting_max=0)
        classifier = Classifier(worker)
        classifier.update(Registry([A, B]).roster)
        await asyncio.sleep(0)
        worker._waiting_max = 8
        await classifier.ready()
        assert (await classifier.guess("aaaa", ["a", "b"], "")).agent == "a"
        await classifier.close()
        await worker.close()

    asyncio.run(scenario())


def test_examples_count_once_without_spaces_around_and_thinned_out_where_too_many(monkeypatch):
    assert [one.text for one in examples_of([agent("a", " x  y ", "x y", "", "z")])] == [
        "x y",
        "z",
    ]

    monkeypatch.setattr("angarium.agents.routing.classifier.ROUTE_EXAMPLES_MAX", 4)
    many = examples_of([agent("a", *map(str, range(6))), agent("b", *map(str, range(6)))])
    assert [(one.agent, one.text) for one in many] == [
        ("a", "0"), ("a", "3"), ("b", "0"), ("b", "3"),
    ]  # fmt: skip
