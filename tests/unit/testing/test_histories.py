"""The judge of load names each invariant when it is broken; the figures count what happened."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from angarium.testing.histories import (
    ClientHistory,
    Got,
    Offline,
    Sent,
    Stored,
    check_histories,
    figures,
    offline_max,
)
from angarium.testing.simulation.invariants import Entry

TALK, ANNA, BEN = "conversation-1", "@anna:angarium", "@ben:angarium"


def clean() -> tuple[list[ClientHistory], Stored]:
    """Anna writes twice, Ben once; both have everything."""
    log = [
        Entry(1, "key-1", ANNA, "ANNA01", 1),
        Entry(2, "key-2", BEN, "BEN001", 1),
        Entry(3, "key-3", ANNA, "ANNA01", 2),
    ]
    histories = [ClientHistory(ANNA, "ANNA01"), ClientHistory(BEN, "BEN001")]
    histories[0].sent = [
        Sent(TALK, "key-1", 10.0, 10.2, 1),
        Sent(TALK, "key-3", 12.0, 12.5, 3),
    ]
    histories[1].sent = [Sent(TALK, "key-2", 11.0, 11.1, 2)]
    for history in histories:
        history.received = [
            Got(TALK, e.sequence, e.key, e.user, e.device, 9.5 + e.sequence) for e in log
        ]
    return histories, Stored({TALK: log}, {TALK: frozenset({ANNA, BEN})})


def anna(histories: list[ClientHistory]) -> ClientHistory:
    return histories[0]


def stored_twice(histories: list[ClientHistory], stored: Stored) -> None:
    stored.log[TALK].append(Entry(4, "key-3", ANNA, "ANNA01", 3))


def acknowledged_and_lost(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).sent.append(Sent(TALK, "key-9", 13.0, 13.1, 4))


def hole_in_the_log(histories: list[ClientHistory], stored: Stored) -> None:
    stored.log[TALK][2] = replace(stored.log[TALK][2], sequence=4)


def missing_at_a_device(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).received.pop()


def delivered_twice(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).received.append(anna(histories).received[-1])


def delivered_out_of_order(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).received.reverse()


def acknowledged_elsewhere(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).sent[1].sequence = 2


def written_in_another_order(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).sent.reverse()


def counters_with_a_hole(histories: list[ClientHistory], stored: Stored) -> None:
    stored.log[TALK][2] = replace(stored.log[TALK][2], cs=3)


def delivered_to_a_stranger(histories: list[ClientHistory], stored: Stored) -> None:
    stranger = ClientHistory("@eve:angarium", "EVE001")
    stranger.received = [anna(histories).received[0]]
    histories.append(stranger)


def sealed_for_another(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).misdelivered.append("conversation-1/2 was sealed for another")


def never_stored(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).sent.append(Sent(TALK, "key-9", 13.0))


def ended_for_good(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).ended = "replaced"


def broke_inside(histories: list[ClientHistory], stored: Stored) -> None:
    anna(histories).defects.append("KeyError: 'x'")


def test_a_clean_run_breaks_nothing() -> None:
    assert check_histories(*clean()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (stored_twice, "I1"),
        (acknowledged_and_lost, "I1"),
        (hole_in_the_log, "I2"),
        (missing_at_a_device, "I3"),
        (delivered_twice, "I3"),
        (delivered_out_of_order, "I3"),
        (acknowledged_elsewhere, "I4"),
        (written_in_another_order, "I5"),
        (counters_with_a_hole, "I5"),
        (delivered_to_a_stranger, "I6"),
        (sealed_for_another, "I6"),
        (never_stored, "I8"),
        (ended_for_good, "an error nobody handled: ANNA01: replaced"),
        (broke_inside, "an error nobody handled: ANNA01: KeyError"),
    ],
)
def test_what_is_broken_is_named(
    spoil: Callable[[list[ClientHistory], Stored], None], said: str
) -> None:
    histories, stored = clean()

    spoil(histories, stored)

    broken = check_histories(histories, stored)
    assert any(sentence.startswith(said) for sentence in broken), broken


def test_what_was_not_at_rest_in_time_is_named() -> None:
    assert check_histories(*clean(), ["ANNA01 has 2 of 3"]) == ["I8 ANNA01 has 2 of 3"]


def test_a_refused_message_need_not_be_stored() -> None:
    histories, stored = clean()
    anna(histories).sent.append(Sent(TALK, "key-9", 13.0, refused="too_large"))

    assert check_histories(histories, stored) == []
    assert figures(histories)["refused"] == 1


def test_figures_count_from_submitted_to_acknowledged_and_delivered_elsewhere() -> None:
    histories, _ = clean()

    found = figures(histories)

    assert (found["sent"], found["acked"], found["received"]) == (3, 3, 3)
    assert found["per_s"] == pytest.approx(3 / 2.5)
    assert found["ack_max_ms"] == pytest.approx(500)
    assert found["delivery_max_ms"] == pytest.approx(500)  # Each is delivered after 0.5 s.
    assert found["gap_max_ms"] == pytest.approx(400)  # The one acknowledged after 0.1 s.


def test_figures_of_a_span_leave_out_what_was_sent_outside_it() -> None:
    histories, _ = clean()

    found = figures(histories, since_s=10.5, until_s=12.0)

    assert (found["sent"], found["received"]) == (1, 1)


def test_a_reconnect_lasts_from_the_loss_until_live_again() -> None:
    histories, _ = clean()
    histories[0].offline = [Offline(10.0, 10.4, 11.0)]
    histories[1].offline = [Offline(20.0, 20.5, 23.0), Offline(30.0)]

    found = figures(histories)

    assert found["reconnects"] == 3
    assert (found["reconnect_p50_s"], found["reconnect_max_s"]) == (3.0, 3.0)
    assert figures(histories, until_s=15.0)["reconnect_max_s"] == 1.0


def test_the_most_clients_offline_at_once_are_counted() -> None:
    histories = [ClientHistory(ANNA, f"DEVICE{n}") for n in range(3)]
    histories[0].offline = [Offline(1.0, 2.0, 2.0), Offline(5.0, 9.0, 9.0)]
    histories[1].offline = [Offline(2.0, 6.0, 6.0)]  # Begins as the first one ends.
    histories[2].offline = [Offline(8.0)]  # For good.

    assert offline_max(histories) == 2
    assert offline_max(histories, until_s=4.0) == 1
    assert offline_max(histories, since_s=10.0) == 1
    assert offline_max([ClientHistory(ANNA, "DEVICE")]) == 0
