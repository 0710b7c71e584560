import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.agents.ledger import (
    Journal,
    call_name,
    idempotency_key,
    pack_journal,
    result_of,
    unpack_journal,
)
from angarium.errors import OutcomeUnknown, Refused, TooLarge
from angarium.limits import JOURNAL_BYTES_MAX, QUESTIONS_PER_TURN_MAX

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_a_done_call_returns_its_result_after_a_crash(result):
    journal = Journal()
    assert journal.begin("pay", "once") is None
    first = journal.finish("pay", result)
    known = unpack_journal(pack_journal(journal)).begin("pay", "once")
    assert known is not None
    assert result_of(known) == first == result


@pytest.mark.parametrize("effect", ["read", "keyed"])
def test_an_interrupted_call_that_may_repeat_runs_again(effect):
    journal = Journal()
    journal.begin("pay", effect)
    assert unpack_journal(pack_journal(journal)).begin("pay", effect) is None


def test_an_interrupted_once_call_never_runs_again():
    journal = Journal()
    journal.begin("fax", "once")
    with pytest.raises(OutcomeUnknown):
        unpack_journal(pack_journal(journal)).begin("fax", "once")


def test_the_order_of_names_in_an_argument_does_not_make_another_call():
    assert call_name("a", "t", ({"x": 1, "y": 2},)) == call_name("a", "t", ({"y": 2, "x": 1},))


@pytest.mark.parametrize("other", [("b", "t", (1,)), ("a", "u", (1,)), ("a", "t", (2,))])
def test_another_agent_tool_or_argument_is_another_call(other):
    assert call_name("a", "t", (1,)) != call_name(*other)


def test_the_key_of_a_call_is_its_own_and_stays():
    assert idempotency_key("c", 1, "t") == idempotency_key("c", 1, "t")
    assert len({idempotency_key("c", n, t) for n in (1, 2) for t in ("t", "u")}) == 4


def test_arguments_that_are_not_plain_are_refused():
    with pytest.raises(TypeError):
        call_name("a", "t", (object(),))


def test_questions_are_numbered_from_one_and_bounded():
    journal = Journal()
    parts = [
        journal.add_question(f"{n}", "?", [], 0).part for n in range(QUESTIONS_PER_TURN_MAX)
    ]
    assert parts == list(range(1, QUESTIONS_PER_TURN_MAX + 1))
    with pytest.raises(Refused):
        journal.add_question("one more", "?", [], 0)


def test_a_journal_over_its_bound_is_refused():
    journal = Journal()
    journal.finish("big", b"x" * JOURNAL_BYTES_MAX)
    with pytest.raises(TooLarge):
        pack_journal(journal)


def test_an_empty_record_is_an_empty_journal():
    assert unpack_journal(b"") == Journal()
