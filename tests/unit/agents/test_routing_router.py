"""The order of rules, with examples of the test instead of a model."""

import asyncio
from dataclasses import replace

import pytest

from angarium.agents.agent import Agent
from angarium.agents.declared import Declared, Routing
from angarium.agents.registry import Registry
from angarium.agents.routing.cache import RouteCache
from angarium.agents.routing.router import Router
from angarium.agents.routing.rules import Facts, Guess, ToAgent
from angarium.bus.cache import LocalCache
from angarium.clock import ManualClock
from angarium.errors import Busy

NEAR = Guess("orders", 0.83, "where is my parcel", 0.9, 0.0, fits=True)
NONE = replace(NEAR, nearest=0.2, fits=False)


class Told:
    """Examples that say what the test wants."""

    version = "1"

    def __init__(self, guess):
        self.guess_given, self.asked = guess, []

    def update(self, roster):
        pass

    async def ready(self):
        pass

    async def guess(self, text, allowed, sticky):
        self.asked.append(text)
        if isinstance(self.guess_given, Exception):
            raise self.guess_given
        given = self.guess_given
        return given if given is None or given.agent in allowed else None

    async def close(self):
        pass


def agent(name, **terms):
    made = Agent(name, name, **terms)

    @made.on_turn
    async def answer(turn):
        return name

    return made


def make(guess=NEAR, *, cache=None, routing=None, **terms):
    agents = [agent("guide"), agent("orders", **terms), agent("host")]
    registry = Registry(Declared(agents, routing or Routing(fallback="host")))
    told = Told(guess)
    return Router(registry, examples=told, cache=cache), told


def decide(router, text="where is it", **facts):
    return asyncio.run(router.decide(text, Facts(**facts)))


def test_examples_choose_the_agent_and_give_reason_and_score():
    router, _ = make()

    assert decide(router) == ToAgent(
        "orders", "where is it", 'nearest "where is my parcel" 0.83', 0.83
    )


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("@guide where", {}),
        ("where", {"pending": True}),
        ("where", {"human": True}),
        ("where", {"addressed": "guide"}),
        ("thanks", {"sticky": "guide"}),
        ("/agents", {}),
        ("/reset", {}),
    ],
)
def test_what_control_rules_decide_never_reaches_the_model(text, facts):
    router, told = make()

    decide(router, text, **facts)

    assert told.asked == []


def test_what_fits_nobody_goes_to_the_declared_fallback_else_to_the_default():
    router, _ = make(NONE)
    assert decide(router).agent == "host"

    router, _ = make(NONE, routing=Routing())
    assert decide(router).agent == "guide"


def test_an_agent_of_other_channels_is_never_chosen():
    router, _ = make(channels=["app"])

    assert decide(router, channel="whatsapp").agent == "guide"
    assert decide(router, "@orders where", channel="whatsapp").agent == "guide"
    assert decide(router, addressed="orders", channel="whatsapp").agent == "guide"
    assert decide(router, sticky="orders", channel="whatsapp").agent == "guide"
    assert decide(router, channel="app").agent == "orders"


@pytest.mark.parametrize("guess", [Busy("full"), None])
def test_without_an_answer_of_the_model_the_plain_rules_decide(guess):
    router, _ = make(guess)

    assert decide(router) == ToAgent("guide", "where is it", "default")
    assert decide(router, sticky="orders").agent == "orders"


def test_the_same_words_in_the_same_situation_need_no_model():
    clock = ManualClock()
    router, told = make(cache=RouteCache(b"s", clock))
    first = decide(router, "Where is it?")

    again = decide(router, "where is it")

    assert replace(again, text=first.text) == first
    assert len(told.asked) == 1
    decide(router, "where is it", sticky="guide")
    decide(router, "where is it", channel="whatsapp")
    told.version = "2"
    decide(router, "where is it")
    assert len(told.asked) == 4


def test_what_another_node_has_decided_needs_no_model():
    clock = ManualClock()
    shared = LocalCache(clock)
    decide(make(cache=RouteCache(b"s", clock, shared))[0])
    router, told = make(cache=RouteCache(b"s", clock, shared))

    assert decide(router).agent == "orders"
    assert told.asked == []


def test_a_remembered_agent_that_is_gone_is_asked_for_again():
    clock = ManualClock()
    cache = RouteCache(b"s", clock)
    decide(make(cache=cache)[0])
    router, told = make(replace(NEAR, agent="guide"), cache=cache)
    router._registry.declare([agent("guide"), agent("host")])

    assert decide(router).agent == "guide"
    assert told.asked == ["where is it"]


def test_failures_are_not_remembered():
    router, told = make(Busy("full"), cache=RouteCache(b"s", ManualClock()))
    decide(router)
    told.guess_given = NEAR

    assert decide(router).agent == "orders"


def test_who_declined_is_not_chosen_again_and_nothing_is_remembered_of_it():
    router, _ = make(cache=RouteCache(b"s", ManualClock()))

    async def again(*declined):
        return await router.again("where is it", Facts(sticky="orders", declined=declined))

    assert asyncio.run(again("orders")).agent == "guide"
    assert asyncio.run(again("orders", "guide")).agent == "host"
    assert asyncio.run(again("orders", "guide", "host")).agent == ""
    assert decide(router).agent == "orders"


def judging(answer):
    asked = []

    async def judge(text, agents):
        asked.append((text, [each.name for each in agents]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    return judge, asked


def test_a_judge_is_asked_only_for_what_fits_nobody():
    judge, asked = judging("orders")
    routing = Routing(fallback="host", judge=judge)

    assert decide(make(NONE, routing=routing)[0]).agent == "orders"
    assert asked == [("where is it", ["guide", "orders", "host"])]
    decide(make(NEAR, routing=routing)[0])
    decide(make(NONE, routing=routing)[0], sticky="guide")
    assert len(asked) == 1


@pytest.mark.parametrize("answer", ["nobody", "", None, RuntimeError("model"), 7])
def test_a_judge_that_names_no_agent_or_fails_leaves_the_fallback(answer):
    judge, _ = judging(answer)

    assert decide(make(NONE, routing=Routing(fallback="host", judge=judge))[0]).agent == "host"


def test_a_judge_that_takes_too_long_leaves_the_fallback(monkeypatch):
    async def judge(text, agents):
        await asyncio.Event().wait()

    monkeypatch.setattr("angarium.agents.routing.router.JUDGE_WAIT_S", 0.0)

    assert decide(make(NONE, routing=Routing(fallback="host", judge=judge))[0]).agent == "host"
