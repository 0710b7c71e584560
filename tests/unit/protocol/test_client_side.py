"""The client machine against scripted servers: order, sends, acks, links."""

from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.errors import NotMember, Replaced
from angarium.limits import (
    ACK_DELAY_S,
    DEAD_AFTER_S,
    GET_WAIT_S,
    HELLO_WAIT_S,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
)
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.effects import (
    CloseLink,
    Deliver,
    Effect,
    Ended,
    EpochBegan,
    OpenLink,
    Renumbered,
    Reseal,
    SendRefused,
    Skipped,
    Stored,
    Transmit,
)
from angarium.protocol.frames import (
    Ack,
    AnyFrame,
    Bye,
    Err,
    Get,
    Goaway,
    Heads,
    Hello,
    Limits,
    Msg,
    Ok,
    Ping,
    Pong,
    Range,
    Sealed,
    Send,
    SyncEnd,
    Welcome,
)
from angarium.protocol.outflow import Outgoing

WELCOME = Welcome("sid", "node", 25.0, (256, 1 << 20), Limits(1 << 18, 1 << 16, 64, 32, 8), 0)


def machine(**known: tuple[int, int]) -> ClientMachine:
    return ClientMachine(device="DEVICE1", random=lambda: 0.5, cursors=known)


def live(client: ClientMachine, link: int = 1) -> list[Effect]:
    effects = client.start(0.0) if link == 1 else []
    effects += client.opened(link, "token", 0.0)
    return effects + client.received(link, [WELCOME, SyncEnd(0)], 0.0)


def frames(effects: Sequence[Effect]) -> list[AnyFrame]:
    return [
        frame for effect in effects if isinstance(effect, Transmit) for frame in effect.frames
    ]


def sends(effects: Sequence[Effect]) -> list[Send]:
    return [frame for frame in frames(effects) if isinstance(frame, Send)]


def msg(s: int, e: int = 1, c: str = "c", dev: str = "OTHER01", key: str = "") -> Msg:
    return Msg(c, e, s, key or f"key{s}", "@o:x", dev, 0, ct=b"x")


def delivered(effects: Sequence[Effect]) -> list[int]:
    return [m.s for effect in effects if isinstance(effect, Deliver) for m in effect.messages]


def outgoing(cs: int, c: str = "c") -> Outgoing:
    return Outgoing(c, f"own{cs}", cs, (Sealed("OTHER01", b"%d" % cs),))


def test_the_hello_names_what_was_committed() -> None:
    client = machine(c=(1, 7))
    hello = frames(live(client))[0]
    assert isinstance(hello, Hello)
    assert hello.resume is not None
    assert hello.resume.cursors == {"c": (1, 7)}
    assert (hello.tok, hello.dev) == ("token", "DEVICE1")


def test_a_hole_is_asked_for_once_and_again_when_no_answer_comes() -> None:
    client = machine(c=(1, 1))
    live(client)
    asked = frames(client.received(1, [msg(4)], 1.0))
    assert asked == [Get(1, "c", 2, 3)]
    assert frames(client.received(1, [msg(5)], 1.1)) == []
    assert client.due_s(1.1) is not None
    again = frames(client.tick(1.0 + GET_WAIT_S))
    assert again == [Get(2, "c", 2, 3)]
    answer = Range(2, "c", 1, 2, 3, [msg(2), msg(3)])
    assert delivered(client.received(1, [answer], 7.0)) == [2, 3, 4, 5]


def test_a_head_above_the_cursor_with_nothing_held_asks_too() -> None:
    client = machine(c=(1, 3))
    live(client)
    assert frames(client.received(1, [Heads([("c", 1, 5)])], 1.0)) == [Get(1, "c", 4, 5)]


def test_a_conversation_never_seen_begins_at_its_first_message() -> None:
    client = machine()
    live(client)
    assert delivered(client.received(1, [msg(1), msg(2)], 1.0)) == [1, 2]


def test_what_was_purged_is_skipped() -> None:
    client = machine(c=(1, 1))
    live(client)
    client.received(1, [Heads([("c", 1, 9)])], 1.0)
    effects = client.received(1, [Range(1, "c", 1, 8, 9, [msg(8), msg(9)], floor=8)], 1.1)
    assert Skipped("c", 8) in effects
    assert delivered(effects) == [8, 9]


def test_another_epoch_starts_from_the_first_message() -> None:
    client = machine(c=(1, 5))
    live(client)
    effects = client.received(1, [msg(1, e=2)], 1.0)
    assert effects[0] == EpochBegan("c", 2)
    assert delivered(effects) == [1]


def test_only_what_the_program_committed_is_acknowledged() -> None:
    client = machine(c=(1, 0))
    live(client)
    client.received(1, [msg(1), msg(2)], 1.0)
    assert frames(client.tick(2.0)) == []
    client.committed("c", 1, 1, 2.0)
    assert frames(client.tick(2.0 + ACK_DELAY_S)) == [Ack([("c", 1)])]
    assert frames(client.committed("c", 64, 63, 3.0)) == [Ack([("c", 64)])]


def test_sends_in_flight_are_limited_per_conversation() -> None:
    client = machine()
    live(client)
    effects = [effect for cs in range(1, 12) for effect in client.submit(outgoing(cs), 1.0)]
    assert [send.cs for send in sends(effects)] == list(range(1, 9))
    more = client.received(1, [Ok(sends(effects)[0].id, "c", 1, 1, 0)], 1.1)
    assert Stored("c", "own1", 1) in more
    assert [send.cs for send in sends(more)] == [9]


def test_unconfirmed_sends_leave_again_with_the_same_bytes_after_a_reconnect() -> None:
    client = machine()
    live(client)
    first = sends(client.submit(outgoing(1), 1.0) + client.submit(outgoing(2), 1.0))
    client.closed(1, 1006, "", 2.0)
    reopened = client.tick(2.0 + RECONNECT_MAX_S)
    assert reopened == [OpenLink(2)]
    again = sends(live(client, 2))
    assert [(s.cs, s.key, s.to) for s in again] == [(s.cs, s.key, s.to) for s in first]


def test_pauses_before_a_new_connection_stay_within_the_bounds_asked_for() -> None:
    chances = iter([0.0, 1.0, 1.0, 1.0])
    client = ClientMachine(
        device="DEVICE1", random=lambda: next(chances), reconnect_s=(0.1, 0.3)
    )
    client.start(0.0)
    pauses_s = []
    for link in range(1, 5):
        client.closed(link, 1006, "", 0.0)
        pauses_s.append(client.due_s(0.0))
        client.tick(1.0)
    assert pauses_s == pytest.approx([0.1, 0.3, 0.3, 0.3])


def test_an_out_of_order_refusal_sends_again_in_order() -> None:
    client = machine()
    live(client)
    one, two = sends(client.submit(outgoing(1), 1.0) + client.submit(outgoing(2), 1.0))
    busy = Err(one.id, "busy", retry=True, after_ms=200)
    late = Err(two.id, "out_of_order", retry=True, expect_cs=1)
    assert sends(client.received(1, [busy, late], 1.0)) == []
    assert [send.cs for send in sends(client.tick(1.3))] == [1, 2]


def test_a_refused_send_leaves_no_hole_in_the_counters() -> None:
    client = machine()
    live(client)
    one, two = sends(client.submit(outgoing(1), 1.0) + client.submit(outgoing(2), 1.0))
    effects = client.received(1, [Err(one.id, "not_member")], 1.0)
    refused = next(effect for effect in effects if isinstance(effect, SendRefused))
    assert isinstance(refused.error, NotMember)
    assert Renumbered("c", (("own2", 1),)) in effects
    assert [(send.key, send.cs) for send in sends(effects)] == [("own2", 1)]
    assert two.cs == 2


def test_a_lower_expectation_than_any_queued_send_moves_the_queue() -> None:
    client = machine()
    live(client)
    (five,) = sends(client.submit(outgoing(5), 1.0))
    effects = client.received(1, [Err(five.id, "out_of_order", retry=True, expect_cs=3)], 1.0)
    assert Renumbered("c", (("own5", 3),)) in effects


def test_an_expectation_below_what_was_stored_is_doubted_before_the_queue_moves() -> None:
    client = machine()
    live(client)
    one, two = sends(client.submit(outgoing(1), 1.0) + client.submit(outgoing(2), 1.0))
    client.received(1, [Ok(one.id, "c", 1, 1, 0, False)], 1.0)
    now_s, moved = 1.0, 0
    while not moved:
        late = Err(two.id, "out_of_order", retry=True, expect_cs=1)
        effects = client.received(1, [late], now_s)
        moved = sum(effect == Renumbered("c", (("own2", 1),)) for effect in effects)
        now_s += 11.0
        again = sends(effects + client.tick(now_s))
        two = again[0] if again else two
    assert now_s > 1.0 + 7 * 11.0


def test_in_another_history_a_counter_stored_in_the_last_one_is_free_again() -> None:
    client = machine()
    live(client)
    one, two = sends(client.submit(outgoing(1), 1.0) + client.submit(outgoing(2), 1.0))
    client.received(1, [Ok(one.id, "c", 1, 1, 0), msg(1, key="own1", dev="DEVICE1")], 1.0)
    restored = [Heads([("c", 2, 0)]), Err(two.id, "out_of_order", retry=True, expect_cs=1)]
    assert Renumbered("c", (("own2", 1),)) in client.received(1, restored, 1.1)


def test_a_send_that_moved_down_is_never_taken_for_stored_by_its_counter() -> None:
    client = machine()
    live(client)
    (five,) = sends(client.submit(outgoing(5), 1.0))
    client.received(1, [Err(five.id, "out_of_order", retry=True, expect_cs=3)], 1.0)
    (three,) = sends(client.tick(1.3))
    effects = client.received(1, [Err(three.id, "key_expired")], 1.4)
    assert [type(effect) for effect in effects] == [SendRefused]


def test_a_stale_device_list_seals_again_under_the_same_key() -> None:
    client = machine()
    live(client)
    (one,) = sends(client.submit(outgoing(1), 1.0))
    stale = Err(one.id, "stale_devices", retry=True, missing=["NEW0001"])
    assert client.received(1, [stale], 1.0) == [Reseal("c", "own1", ("NEW0001",), ())]
    to = [Sealed("NEW0001", b"n"), Sealed("OTHER01", b"o")]
    (again,) = sends(client.resealed("c", "own1", to, 2.0))
    assert (again.key, again.cs, again.to) == ("own1", 1, to)


def test_a_reused_key_on_a_second_try_counts_as_stored() -> None:
    client = machine()
    live(client)
    (one,) = sends(client.submit(outgoing(1), 1.0))
    stale = Err(one.id, "stale_devices", retry=True)
    client.received(1, [stale], 1.0)
    (again,) = sends(client.resealed("c", "own1", [Sealed("N", b"n")], 2.0))
    effects = client.received(1, [Err(again.id, "key_reused")], 2.0)
    assert effects == [Stored("c", "own1", 0)]


def test_a_reused_key_on_the_first_try_is_refused() -> None:
    client = machine()
    live(client)
    (one,) = sends(client.submit(outgoing(1), 1.0))
    effects = client.received(1, [Err(one.id, "key_reused")], 2.0)
    assert isinstance(effects[0], SendRefused)


def test_seeing_an_own_message_in_the_log_confirms_it() -> None:
    client = machine()
    live(client)
    client.submit(outgoing(1), 1.0)
    effects = client.received(1, [msg(1, dev="DEVICE1", key="own1")], 1.0)
    assert effects[-1] == Stored("c", "own1", 1)
    assert client.unconfirmed() == 0


def test_a_drain_opens_a_second_link_before_the_first_ends() -> None:
    client = machine()
    live(client)
    client.submit(outgoing(1), 1.0)
    client.received(1, [Goaway("drain", 4000, 45_000)], 10.0)
    assert client.tick(11.9) == []
    assert client.tick(12.0) == [OpenLink(2)]
    assert client.state == "migrating"
    assert delivered(client.received(1, [msg(1)], 12.1)) == [1]
    client.opened(2, "token", 12.2)
    effects = client.received(2, [WELCOME], 12.3)
    assert effects[:2] == [Transmit(1, [Bye()]), CloseLink(1)]
    assert [send.key for send in sends(effects)] == ["own1"]
    assert client.closed(1, 1000, "", 12.4) == []


def test_a_link_that_ends_while_the_second_opens_loses_nothing() -> None:
    client = machine()
    live(client)
    client.submit(outgoing(1), 1.0)
    client.received(1, [Goaway("drain", 0, 45_000)], 10.0)
    client.tick(10.0)
    assert client.closed(1, 4001, "", 10.1) == []
    client.opened(2, "token", 10.2)
    effects = client.received(2, [WELCOME, SyncEnd(0)], 10.3)
    assert [send.key for send in sends(effects)] == ["own1"]
    assert client.state == "live"


def test_an_expired_token_is_renewed_before_the_next_try() -> None:
    client = machine()
    live(client)
    client.closed(1, 4101, "", 1.0)
    assert client.tick(1.0 + RECONNECT_MAX_S) == [OpenLink(2, fresh_token=True)]


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4406, 4409, 4413, 4499])
def test_a_terminal_close_ends_the_machine(code: int) -> None:
    client = machine()
    live(client)
    effects = client.closed(1, code, "", 1.0)
    assert isinstance(effects[-1], Ended)
    assert client.due_s(1.0) is None
    assert client.state == "stopped"


def test_a_displaced_device_is_told_by_whom() -> None:
    client = machine()
    live(client)
    (ended,) = [e for e in client.closed(1, 4409, "", 1.0) if isinstance(e, Ended)]
    assert isinstance(ended.error, Replaced)


def test_an_overloaded_server_is_given_the_time_it_names() -> None:
    client = machine()
    live(client)
    client.closed(1, 4013, "after_ms=7000", 1.0)
    due_s = client.due_s(1.0)
    assert due_s is not None
    assert due_s >= 8.0


def test_silence_closes_the_link_and_opens_another() -> None:
    client = machine()
    live(client)
    assert client.tick(DEAD_AFTER_S - 0.1) == []
    assert client.tick(DEAD_AFTER_S) == [CloseLink(1, 4012)]
    assert client.tick(DEAD_AFTER_S + RECONNECT_MAX_S) == [OpenLink(2)]


def test_a_link_that_never_welcomes_is_given_up() -> None:
    client = machine()
    client.start(0.0)
    client.opened(1, "token", 1.0)
    assert client.tick(1.0 + HELLO_WAIT_S) == [CloseLink(1, 4012)]


def test_reconnects_spread_between_their_bounds() -> None:
    delays = []
    client = machine()
    client.start(0.0)
    now = 0.0
    for link in count(1):
        client.closed(link, 1006, "", now)
        due_s = client.due_s(now)
        assert due_s is not None
        delays.append(due_s - now)
        now = due_s
        client.tick(now)
        if link == 12:
            break
    assert min(delays) >= RECONNECT_MIN_S
    assert max(delays) <= RECONNECT_MAX_S
    assert delays == sorted(delays)


def test_a_ping_is_answered() -> None:
    client = machine()
    live(client)
    assert frames(client.received(1, [Ping(3)], 1.0)) == [Pong(3)]


@given(st.integers(1, 40), st.data())
def test_any_interleaving_is_applied_once_and_in_order(
    newest: int, data: st.DataObject
) -> None:
    """Messages are lost, repeated, reordered; heads and answers to `get` arrive at any time."""
    client = machine(c=(1, 0))
    live(client)
    seen: list[int] = []
    asked: list[Get] = []
    now = 1.0

    def take(effects: list[Effect]) -> None:
        seen.extend(delivered(effects))
        asked.extend(frame for frame in frames(effects) if isinstance(frame, Get))

    steps = st.tuples(st.sampled_from(["msg", "head", "range", "tick"]), st.integers(1, newest))
    for kind, s in data.draw(st.lists(steps, max_size=60)):
        now += 0.7
        if kind == "msg":
            take(client.received(1, [msg(s)], now))
        elif kind == "head":
            take(client.received(1, [Heads([("c", 1, s)])], now))
        elif kind == "range" and asked:
            get = asked[s % len(asked)]
            held = [msg(n) for n in range(get.first, get.last + 1)]
            take(client.received(1, [Range(get.id, "c", 1, get.first, get.last, held)], now))
        else:
            take(client.received(1, [Ping(1)], now))
            take(client.tick(now))
        assert seen == list(range(1, len(seen) + 1))
    take(client.received(1, [Heads([("c", 1, newest)])], now))
    for _ in range(3 * newest):
        now += GET_WAIT_S
        take(client.received(1, [Ping(1)], now))
        take(client.tick(now))
        if asked:
            get = asked[-1]
            held = [msg(n) for n in range(get.first, get.last + 1)]
            take(client.received(1, [Range(get.id, "c", 1, get.first, get.last, held)], now))
    assert seen == list(range(1, newest + 1))
