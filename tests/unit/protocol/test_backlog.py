"""Cursors and credit of one connection, against a plain model."""

from hypothesis import given
from hypothesis import strategies as st

from angarium.limits import CREDIT_BYTES, CREDIT_MESSAGES
from angarium.model.conversation import Head
from angarium.protocol.backlog import MESSAGE_OVERHEAD_BYTES, Backlog


def backlog_at(head: int, sent: int = 0, credit: int = 0) -> Backlog:
    backlog = Backlog()
    backlog.offer_credit(credit, 0)
    backlog.enter("c", Head(1, head), sent)
    return backlog


def test_only_the_next_sequence_is_pushed() -> None:
    backlog = backlog_at(0)

    assert backlog.push("c", 1, 1, 10)
    assert not backlog.push("c", 1, 1, 10)
    assert not backlog.push("c", 1, 3, 10)
    assert backlog.wanted() == ("c", 2, 2)


def test_a_message_of_another_epoch_or_conversation_is_not_pushed() -> None:
    backlog = backlog_at(0)

    assert not backlog.push("c", 2, 1, 10)
    assert not backlog.push("other", 1, 1, 10)


def test_a_client_may_ask_for_less_credit_never_for_more() -> None:
    backlog = Backlog()
    backlog.offer_credit(10**9, 10**12)

    assert (backlog.credit_messages, backlog.credit_bytes) == (CREDIT_MESSAGES, CREDIT_BYTES)


def test_used_up_credit_wants_nothing_until_something_is_acknowledged() -> None:
    backlog = backlog_at(9, credit=2)
    assert backlog.push("c", 1, 1, 0)
    assert backlog.push("c", 1, 2, 0)
    assert backlog.wanted() is None

    assert backlog.acknowledge("c", 1)
    assert backlog.wanted() == ("c", 3, 1)


def test_an_old_ack_changes_nothing() -> None:
    backlog = backlog_at(3)
    backlog.push("c", 1, 1, 0)

    assert backlog.acknowledge("c", 1)
    assert not backlog.acknowledge("c", 1)
    assert not backlog.acknowledge("c", 0)


def test_an_ack_beyond_what_was_sent_moves_the_cursor() -> None:
    backlog = backlog_at(9)
    backlog.acknowledge("c", 5)

    assert backlog.wanted() == ("c", 6, 4)


def test_what_is_purged_is_passed_over_and_its_credit_given_back() -> None:
    backlog = backlog_at(9)
    backlog.push("c", 1, 1, 100)

    assert backlog.skip("c", 6)
    assert backlog.wanted() == ("c", 6, 4)
    assert backlog.unacked == (0, 0)
    assert not backlog.skip("c", 6)


def test_leaving_gives_back_the_credit() -> None:
    backlog = backlog_at(9)
    backlog.push("c", 1, 1, 100)

    assert backlog.leave("c")
    assert not backlog.leave("c")
    assert (backlog.unacked, backlog.wanted()) == ((0, 0), None)


def test_conversations_that_are_behind_take_turns() -> None:
    backlog = backlog_at(9)
    backlog.enter("d", Head(1, 4), 0)
    backlog.rotate("c")

    assert backlog.wanted() == ("d", 1, 4)


def test_what_was_put_off_waits_for_news() -> None:
    backlog = backlog_at(9)
    backlog.put_off("c")
    assert backlog.wanted() is None

    assert backlog.raise_head("c", Head(1, 9))
    assert backlog.wanted() == ("c", 1, 9)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(0, 2), st.integers(0, 5)),
            st.tuples(st.just("ack"), st.integers(0, 2), st.integers(-1, 30)),
            st.tuples(st.just("head"), st.integers(0, 2), st.integers(0, 30)),
            st.tuples(st.just("skip"), st.integers(0, 2), st.integers(0, 30)),
        ),
        max_size=60,
    )
)
def test_credit_is_exact_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    backlog = Backlog()
    backlog.offer_credit(7, 5 * MESSAGE_OVERHEAD_BYTES)
    for n in range(3):
        backlog.enter(str(n), Head(1, 5), 0)
    for step, n, value in steps:
        c = str(n)
        cursor = backlog.cursors[c]
        if step == "push":
            had_credit, sent = backlog.has_credit, cursor.sent
            pushed = backlog.push(c, 1, sent + 1 + value // 3, value)
            assert pushed == (had_credit and value < 3)
        elif step == "ack":
            backlog.acknowledge(c, value)
        elif step == "head":
            backlog.raise_head(c, Head(1, value))
        else:
            backlog.skip(c, min(value, cursor.head + 1))

        outstanding = [len(each.weights or ()) for each in backlog.cursors.values()]
        weights = [sum(each.weights or ()) for each in backlog.cursors.values()]
        assert backlog.unacked == (sum(outstanding), sum(weights))
        assert sum(outstanding) <= 7
        for each in backlog.cursors.values():
            assert each.acked <= each.sent <= each.head
            assert len(each.weights or ()) == each.sent - each.acked
