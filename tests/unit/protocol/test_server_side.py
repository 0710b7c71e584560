"""The server's machine alone: states, limits, and bytes from hell."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from angarium.errors import Malformed, StaleDevices, TokenExpired, TooLarge, Unavailable
from angarium.model.conversation import Head
from angarium.model.message import Accepted
from angarium.protocol.codec import Codec, JsonCodec, MsgpackCodec, UnknownFrame
from angarium.protocol.frames import (
    Ack,
    AnyFrame,
    Bye,
    Err,
    Evt,
    Get,
    Goaway,
    Heads,
    Hello,
    Ok,
    Part,
    Ping,
    Pong,
    Resume,
    Sealed,
    Send,
    SyncEnd,
    Welcome,
)
from angarium.protocol.server_effects import (
    Append,
    Effect,
    Fetch,
    Greet,
    Hangup,
    Pump,
    Relay,
    Write,
)
from angarium.protocol.server_rules import close_reason
from angarium.protocol.server_side import ServerSide, State

KEY = "00000000-0000-0000-0000-000000000001"
C = "c"


def written(effects: list[Effect]) -> list[Any]:
    return [effect.frame for effect in effects if isinstance(effect, Write)]


def closed(effects: list[Effect]) -> list[int]:
    return [effect.code for effect in effects if isinstance(effect, Hangup)]


def send(n: int = 1, c: str = C) -> Send:
    return Send(n, c, KEY, n, [Sealed("DEVICE", b"sealed")])


def up(head: int = 0, resume: Resume | None = None) -> ServerSide:
    machine = ServerSide(0.0)
    machine.receive([Hello(1, "DEVICE", "token", resume=resume)], 0.0)
    machine.welcome([(C, Head(1, head))], sid="s", node="n", now_ms=1)
    return machine


def test_hello_asks_to_be_greeted_and_welcome_makes_it_live() -> None:
    machine = ServerSide(0.0)
    hello = Hello(1, "DEVICE", "token")
    assert machine.receive([hello], 0.0) == [Greet(hello)]
    effects = machine.welcome([(C, Head(1, 0))], sid="s", node="n", now_ms=1)

    assert [type(frame) for frame in written(effects)] == [Welcome, Heads, Heads, SyncEnd]
    assert machine.state is State.LIVE


def test_it_stays_syncing_until_the_backlog_is_on_the_wire() -> None:
    machine = up(head=2)
    assert machine.state is State.SYNCING
    machine.backlog.push(C, 1, 1, 0)
    assert machine.pumped() == []
    machine.backlog.push(C, 1, 2, 0)

    assert written(machine.pumped())[-1] == SyncEnd(2)
    assert machine.state is State.LIVE


def test_a_closed_machine_does_nothing_more() -> None:
    machine = up()
    assert closed(machine.receive([Bye(), send(), Ping(1)], 0.0)) == [1000]

    assert machine.receive([send()], 0.0) == []
    assert machine.tick(1e9) == []
    assert machine.refuse(Malformed("late")) == []
    assert machine.notice(C, Head(1, 5)) == []
    assert machine.welcome([], sid="s", node="n", now_ms=1) == []


@pytest.mark.parametrize("frame", [send(), Ack([]), Get(1, C, 1, 2), Evt(C, "typing")])
def test_nothing_comes_before_hello(frame: AnyFrame) -> None:
    effects = ServerSide(0.0).receive([frame], 0.0)  # type: ignore[list-item]

    assert closed(effects) == [4400]


def test_a_second_hello_is_malformed() -> None:
    assert closed(up().receive([Hello(1, "DEVICE")], 0.0)) == [4400]


def test_a_restored_conversation_ends_the_connection_with_resync() -> None:
    assert closed(up(head=1).notice(C, Head(2, 1))) == [4010]


def test_a_send_is_appended_and_its_answer_frees_its_place() -> None:
    machine = up()
    for _ in range(3):
        sends = [send(n) for n in range(1, 9)]
        assert machine.receive(sends, 0.0) == [Append(each) for each in sends]
        for each in sends:
            machine.accepted(each, Accepted(1, each.cs, 1))


def test_sends_in_flight_are_bounded_by_conversation_and_by_connection() -> None:
    machine = up()
    effects = machine.receive([send(n, str(n // 9)) for n in range(1, 46)], 0.0)

    assert len([effect for effect in effects if isinstance(effect, Append)]) == 32
    assert {frame.code for frame in written(effects)} == {"busy"}


def test_bye_waits_for_the_answers_that_are_due() -> None:
    machine = up()
    first, second = send(1), send(2)
    assert closed(machine.receive([first, second, Bye()], 0.0)) == []
    assert written(machine.accepted(first, Accepted(1, 1, 5))) == [Ok(1, C, 1, 1, 5)]
    effects = machine.rejected(second, Unavailable())

    assert [frame.code for frame in written(effects)] == ["unavailable"]
    assert closed(effects) == [1000]


def test_ranges_asked_for_at_once_are_bounded() -> None:
    machine = up(head=3)
    effects = machine.receive([Get(n, C, 1, 3) for n in range(1, 11)], 0.0)
    assert len([effect for effect in effects if isinstance(effect, Fetch)]) == 8
    assert [frame.id for frame in written(effects)] == [9, 10]

    machine.fetched()
    assert machine.receive([Get(11, C, 1, 3)], 0.0) == [Fetch(Get(11, C, 1, 3))]


@pytest.mark.parametrize(("first", "last"), [(0, 1), (3, 2), (-5, -1), (1, 2**63 - 1)])
def test_a_senseless_range_is_malformed(first: int, last: int) -> None:
    (frame,) = written(up().receive([Get(1, C, first, last)], 0.0))

    assert frame.code == "malformed"


def test_an_unknown_frame_with_an_id_is_answered_and_the_connection_stays() -> None:
    machine = up()
    (frame,) = written(machine.receive([UnknownFrame(9, "later")], 0.0))

    assert (frame.id, frame.code, machine.state) == (9, "malformed", State.LIVE)


def test_events_of_foreign_conversations_forged_presence_and_empty_receipts_are_dropped() -> (
    None
):
    frames = [
        Evt("foreign", "typing"),
        Evt(C, "presence"),
        Evt(C, "read", s=5),
        Part("foreign", "ref", 0, ct=b"part"),
        Part(C, "ref", 0, ct=b"x" * (64 * 1024 + 1)),
        Part(C, "ref", -1, ct=b"part"),
    ]
    assert up(head=0).receive(frames, 0.0) == []

    machine = up(head=4)
    assert machine.receive([Evt(C, "read", s=9)], 0.0) == [Relay(Evt(C, "read", s=4))]


def test_an_ack_pumps_only_when_it_frees_something() -> None:
    machine = up(head=1)
    machine.backlog.push(C, 1, 1, 0)

    assert machine.receive([Ack([(C, 1), ("foreign", 3)])], 0.0) == [Pump()]
    assert machine.receive([Ack([(C, 1)])], 0.0) == []


def test_it_pings_each_25_s_and_gives_up_after_33_s_of_silence() -> None:
    machine = up()
    assert machine.tick(24.9) == []
    assert written(machine.tick(25.0)) == [Ping(1)]
    assert machine.tick(32.9) == []
    assert closed(machine.tick(33.0)) == [4012]


def test_who_acknowledges_nothing_and_has_no_credit_left_is_let_go_after_20_s() -> None:
    machine = up()
    machine.backlog.offer_credit(2, 0)
    for sequence in (1, 2, 3):
        machine.backlog.push(C, 1, sequence, 0)
    assert closed(machine.tick(19.0)) == []
    machine.receive([Ack([(C, 1)])], 19.0)
    assert machine.backlog.push(C, 1, 3, 0)
    assert closed(machine.tick(30.0)) == []  # Nothing more is to be sent.
    machine.backlog.push(C, 1, 4, 0)

    for n in range(31, 50):
        machine.receive([Pong(n)], n)
        assert closed(machine.tick(n)) == []
    machine.receive([Pong(50)], 50.0)
    assert closed(machine.tick(50.0)) == [4008]


def test_any_traffic_is_life() -> None:
    machine = up()
    machine.receive([Pong(1)], 30.0)

    assert closed(machine.tick(62.0)) == []
    assert closed(machine.tick(63.0)) == [4012]


def test_goaway_is_said_once_and_sends_go_on() -> None:
    machine = up()
    assert written(machine.go_away(2.0, 45.0)) == [Goaway("drain", 2000, 45000)]
    assert machine.go_away(2.0, 45.0) == []
    assert machine.receive([send()], 0.0) == [Append(send())]


def test_a_joined_conversation_is_delivered_from_its_start_and_a_left_one_not_at_all() -> None:
    machine = up()
    effects = machine.follow("new", Head(1, 7))
    assert written(effects) == [Heads([("new", 1, 7)])]
    assert machine.backlog.wanted() == ("new", 1, 7)

    assert machine.unfollow("new") == [Pump()]
    assert machine.backlog.wanted() is None
    assert machine.unfollow("new") == []


def test_leaving_the_last_unsynced_conversation_ends_the_backlog() -> None:
    machine = up(head=5)
    machine.unfollow(C)

    assert written(machine.pumped())[-1] == SyncEnd(0)


def test_a_close_reason_says_when_to_come_back_and_fits_a_control_frame() -> None:
    assert close_reason(Unavailable("later", 2000)) == "unavailable after_ms=2000"
    (hangup,) = up().hang_up(4000, "ä" * 200)

    assert isinstance(hangup, Hangup)
    assert len(hangup.reason.encode()) <= 123


# --- bytes from hell ------------------------------------------------------------------------

FRAMES: list[AnyFrame] = [
    Hello(1, "DEVICE", "token", resume=Resume({C: (1, 2)}), win=(3, 4)),
    send(),
    Ack([(C, 1)]),
    Get(2, C, 1, 5),
    Evt(C, "typing"),
    Part(C, "ref", 0, to=[Sealed("DEVICE", b"part")]),
    Ping(3),
    Pong(3),
    Err(1, "busy"),
    Bye(),
]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def feed(codec: Codec, payload: bytes, machine: ServerSide) -> None:
    """As the hub does: what is not a frame ends the connection."""
    try:
        effects = machine.receive(codec.decode_client(payload), 1.0)
    except (Malformed, TooLarge) as error:
        effects = machine.refuse(error)
    assert all(code == 1000 or 4400 <= code < 4500 for code in closed(effects))
    assert bool(closed(effects)) == (machine.state is State.CLOSED)
    for frame in written(effects):
        assert codec.decode_server(codec.encode([frame]))


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
@given(payload=st.binary(max_size=200))
def test_random_bytes_are_never_more_than_a_close(codec: Codec, payload: bytes) -> None:
    for machine in (ServerSide(0.0), up(head=3)):
        feed(codec, payload, machine)


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
@given(
    frame=st.sampled_from(FRAMES),
    cut=st.integers(0, 60),
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
)
def test_truncated_and_mutated_frames_are_never_more_than_a_close(
    codec: Codec, frame: AnyFrame, cut: int, flips: list[tuple[int, int]]
) -> None:
    payload = bytearray(codec.encode([frame]))
    del payload[len(payload) - cut :]
    for place, value in flips:
        if place < len(payload):
            payload[place] = value
    for machine in (ServerSide(0.0), up(head=3)):
        feed(codec, bytes(payload), machine)


@settings(
    suppress_health_check=[HealthCheck.too_slow]
)  # Making input waits for a busy machine.
@given(
    tag=st.sampled_from(["hello", "send", "ack", "get", "evt", "part", "ping", "bye", "new"]),
    fields=st.dictionaries(
        st.sampled_from(
            [
                "v",
                "dev",
                "tok",
                "feat",
                "resume",
                "win",
                "id",
                "c",
                "key",
                "cs",
                "to",
                "kind",
                "a",
                "from",
                "n",
                "s",
                "i",
                "ct",
            ]
        ),
        values,
        max_size=8,
    ),
)
def test_wrong_fields_are_never_more_than_a_close(tag: str, fields: dict[str, Any]) -> None:
    payload = msgspec.msgpack.encode({**fields, "t": tag})
    for machine in (ServerSide(0.0), up(head=3)):
        feed(MsgpackCodec(), payload, machine)


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 64])
def test_frames_encoded_one_by_one_join_into_one_message(codec: Codec, count: int) -> None:
    frames = [Ok(n, C, n, 1, n) for n in range(count)]
    joined = codec.join([codec.encode([frame]) for frame in frames])

    assert codec.decode_server(joined) == frames
    assert joined == codec.encode(frames)


def test_errors_tell_what_a_client_needs() -> None:
    (frame,) = written(up().refuse(StaleDevices(["A"], ["B"])))

    assert (frame.id, frame.code, frame.missing, frame.extra) == (
        0,
        "stale_devices",
        ["A"],
        ["B"],
    )


def test_a_connection_ends_with_its_token() -> None:
    machine = up()
    machine.expires_s = 20.0
    assert machine.tick(19.9) == []
    effects = machine.tick(20.0)
    assert [frame.code for frame in written(effects)] == [TokenExpired.code]
    assert closed(effects) == [4101]
    assert machine.tick(21.0) == []


def test_a_token_that_expires_while_the_hello_waits_is_refused_too() -> None:
    machine = ServerSide(0.0)
    machine.receive([Hello(1, "DEVICE", "token")], 0.0)
    machine.expires_s = 5.0
    assert closed(machine.tick(5.0)) == [4101]
    assert machine.welcome([(C, Head(1, 0))], sid="s", node="n", now_ms=1) == []
