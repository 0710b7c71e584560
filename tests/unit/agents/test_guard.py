import pytest

from angarium.agents.guard import (
    BROKEN,
    BROKEN_FOR_NOW,
    CUT_NOTE,
    TOO_FAST,
    TOO_LONG,
    UNSURE,
    admit_everybody,
    check_inbound,
    classify,
    cut_reply,
)
from angarium.errors import (
    BadReply,
    NoReply,
    NotFound,
    OutcomeUnknown,
    ReplyCutOff,
    Unavailable,
)
from angarium.limits import REPLY_BYTES_MAX, TURN_TEXT_CHARS_MAX


def test_a_message_within_bounds_passes():
    assert check_inbound("x" * TURN_TEXT_CHARS_MAX, "@a:b", admit_everybody) is None


def test_a_message_over_the_bound_is_refused():
    assert check_inbound("x" * (TURN_TEXT_CHARS_MAX + 1), "@a:b", admit_everybody) is TOO_LONG


def test_who_is_too_fast_is_refused():
    assert check_inbound("x", "@a:b", lambda user: user != "@a:b") is TOO_FAST


def test_a_reply_within_bounds_is_left_alone():
    assert cut_reply("é" * (REPLY_BYTES_MAX // 2)) == "é" * (REPLY_BYTES_MAX // 2)


@pytest.mark.parametrize("letter", ["x", "é", "€", "😀"])
def test_a_long_reply_is_cut_between_characters_and_says_so(letter):
    cut = cut_reply(letter * (REPLY_BYTES_MAX + 1))
    assert len(cut.encode()) <= REPLY_BYTES_MAX
    assert cut.endswith(CUT_NOTE)
    assert set(cut.removesuffix(CUT_NOTE)) == {letter}


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (OutcomeUnknown("x"), UNSURE),
        (Unavailable(), BROKEN_FOR_NOW),
        (NotFound("x"), BROKEN),
        (ConnectionResetError(), BROKEN_FOR_NOW),
        (TimeoutError(), BROKEN_FOR_NOW),
        (FileNotFoundError(), BROKEN),
        (ZeroDivisionError(), BROKEN),
    ],
)
def test_errors_of_agents_are_told_apart(error, trouble):
    assert classify(error) is trouble


@pytest.mark.parametrize("error", [BadReply("x"), ReplyCutOff("x"), NoReply("x")])
def test_an_answer_that_cannot_be_read_is_named_told_and_not_asked_for_again(error):
    trouble = classify(error)
    assert (trouble.code, trouble.again) == (error.code, False)
    assert trouble.sentence
