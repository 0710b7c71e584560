import pytest

from angarium.agents.approvals import APPROVE, DENY, Approval, judge, matches
from angarium.limits import APPROVAL_ARGUMENTS_CHARS_MAX, APPROVAL_KEPT_S


def test_a_changed_argument_is_another_question():
    first = Approval("refund", {"order": "A1", "cents": 5}, "call-1")
    same = Approval("refund", {"cents": 5, "order": "A1"}, "call-1")
    other = Approval("refund", {"order": "A1", "cents": 500}, "call-1")
    assert first.name == same.name
    assert other.digest != first.digest
    assert other.name != first.name


def test_another_tool_or_another_call_is_another_question():
    first = Approval("refund", {}, "call-1")
    assert Approval("pay", {}, "call-1").digest != first.digest
    assert Approval("refund", {}, "call-2").name != first.name


def test_an_argument_cannot_look_like_another_argument():
    sly = Approval("pay", {"note": "x\n- cents: 1", "cents": 900}, "c")
    lines = sly.question.splitlines()
    assert lines[1:3] == ['- note: "x\\n- cents: 1"', "- cents: 900"]


def test_hidden_characters_are_not_shown():
    assert "\u202e" not in Approval("pay", {"to": "a\u202eb"}, "c").question


def test_what_fits_into_a_message_can_be_shown():
    assert Approval("post", {"text": "x" * 100}, "c").can_be_shown
    assert not Approval("post", {"text": "x" * APPROVAL_ARGUMENTS_CHARS_MAX}, "c").can_be_shown


def test_only_the_word_itself_in_time_approves():
    late_ms = int(APPROVAL_KEPT_S * 1000)
    assert judge(APPROVE, 0, late_ms) == ""
    assert judge(APPROVE, 0, late_ms + 1).startswith("expired: ")
    assert judge(DENY, 0, 0).startswith("denied: ")
    assert judge("Approve it all!", 0, 0).startswith("denied: ")


@pytest.mark.parametrize(
    ("tool", "fits"), [("refund_all", True), ("refund", False), ("pay", True), ("PAY", False)]
)
def test_patterns_name_tools(tool, fits):
    assert matches(tool, ["refund_*", "pay"]) is fits
