import pytest

from angarium.agents.router import (
    ListAgents,
    Reset,
    Switch,
    ToAgent,
    ToQuestion,
    read_answer,
    route,
)

AGENTS = ("guide", "orders")


def decide(text, **facts):
    return route(text, agents=AGENTS, default="guide", **facts)


def test_the_first_message_goes_to_the_default_agent():
    assert decide("hello") == ToAgent("guide", "hello", "default")


def test_the_agent_that_has_the_conversation_keeps_it():
    assert decide("hello", sticky="orders") == ToAgent("orders", "hello", "sticky")


def test_an_agent_that_is_gone_loses_the_conversation():
    assert decide("hello", sticky="gone") == ToAgent("guide", "hello", "default")


@pytest.mark.parametrize("text", ["@orders where?", "  @Orders, where?", "@orders: where?"])
def test_a_mention_goes_before_the_sticky_agent_and_is_cut_off(text):
    assert decide(text, sticky="guide") == ToAgent("orders", "where?", "mention")


def test_a_mention_alone_switches():
    assert decide("@orders") == Switch("orders")


@pytest.mark.parametrize(
    "text", ["@nobody hi", "mail me at x@orders", "@ordersx hi", "@orders-x"]
)
def test_what_is_no_mention_of_an_agent_stays_text(text):
    assert decide(text) == ToAgent("guide", text, "default")


def test_a_pending_question_goes_before_mentions_and_lists():
    assert decide("@orders 12", pending=True) == ToQuestion()
    assert decide("/agents", pending=True) == ToQuestion()


@pytest.mark.parametrize("pending", [True, False])
def test_reset_is_always_obeyed(pending):
    assert decide(" /RESET ", pending=pending) == Reset()


def test_agents_are_listed():
    assert decide("/agents", sticky="orders") == ListAgents()


def test_an_agent_named_beside_the_text_counts_like_a_mention():
    assert decide("hi", sticky="guide", addressed="orders") == ToAgent(
        "orders", "hi", "addressed"
    )
    assert decide("hi", addressed="nobody") == ToAgent("guide", "hi", "default")


@pytest.mark.parametrize(
    ("text", "meant"),
    [("1", "19:00"), (" 2 ", "20:30"), ("3", "3"), ("0", "0"), ("20:30", "20:30"), ("²", "²")],
)
def test_an_answer_is_the_option_it_numbers(text, meant):
    assert read_answer(text, ["19:00", "20:30"]) == meant


def test_an_answer_is_the_option_it_spells_in_any_case():
    assert read_answer("keep IT", ["Change", "Keep it"]) == "Keep it"
