import pytest

from angarium.agents.routing.rules import (
    Facts,
    Guess,
    ListAgents,
    Reset,
    Switch,
    ToAgent,
    ToHuman,
    ToQuestion,
    Verdict,
    control,
    read_answer,
    with_examples,
    without_examples,
)

AGENTS = ("guide", "orders")


RULE = (0.60, 0.30)


def decide(text, **given):
    """As a router without examples."""
    facts = Facts(**given)
    decided = control(text, facts, AGENTS)
    if decided is not None:
        return decided
    verdict = without_examples(facts, AGENTS, "guide")
    return ToAgent(verdict.agent, text, verdict.reason)


def judged(guess, sticky="", agents=AGENTS):
    return with_examples(guess, Facts(sticky=sticky), agents, fallback="guide", rule=RULE)


def guess(agent="orders", nearest=0.83, share=0.9, kept_share=0.1, fits=True):
    return Guess(agent, nearest, "where is my parcel", share, kept_share, fits)


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


def test_while_people_have_the_conversation_nothing_goes_to_an_agent():
    for text in ("hello", "@orders where?", "/agents", "/reset"):
        assert decide(text, human=True, pending=True) == ToHuman()


def test_an_acknowledgement_belongs_to_whoever_was_talking():
    assert decide("Yes, thanks!", sticky="orders").reason == "acknowledgement"
    assert decide("Yes, thanks!") == ToAgent("guide", "Yes, thanks!", "default")


def test_where_no_agent_may_answer_none_is_chosen():
    assert without_examples(Facts(), [], "guide") == Verdict("", "default")


def test_where_the_default_may_not_answer_the_first_that_may_does():
    assert without_examples(Facts(), ["orders"], "guide").agent == "orders"


def test_a_conversation_nobody_has_goes_to_the_agent_with_the_nearest_example():
    assert judged(guess()) == Verdict("orders", 'nearest "where is my parcel" 0.83', 0.83)


def test_what_fits_nobody_goes_to_the_fallback():
    verdict = judged(guess(nearest=0.21, fits=False))

    assert verdict.agent == "guide"
    assert verdict.reason.startswith("out of scope")


@pytest.mark.parametrize(
    ("nearest", "share", "kept_share", "agent"),
    [
        (0.60, 0.65, 0.35, "orders"),
        (0.59, 0.95, 0.05, "guide"),  # Not near enough.
        (0.95, 0.60, 0.40, "guide"),  # Not clearly another's.
    ],
)
def test_a_conversation_changes_hands_only_when_another_agent_is_near_and_clearly_meant(
    nearest, share, kept_share, agent
):
    found = guess(nearest=nearest, share=share, kept_share=kept_share, fits=True)

    assert judged(found, sticky="guide").agent == agent


def test_what_fits_nobody_stays_in_a_conversation_that_somebody_has():
    assert (
        judged(guess(agent="guide", nearest=0.1, fits=False), sticky="orders").agent == "orders"
    )


def test_a_long_example_is_cut_in_the_reason():
    found = Guess("orders", 0.9, "where is " * 50, 0.9, 0.0, True)

    assert len(judged(found).reason) < 100
