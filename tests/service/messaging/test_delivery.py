"""Messages reach every device once, in order: live, under credit, after a resume."""

from dataclasses import dataclass, field

import pytest

from angarium.bus.contract import Appended, DevicesChanged, Joined, Left
from angarium.messaging.engine import MemoryEngine
from angarium.model.message import NewMessage, StoredMessage
from angarium.protocol.frames import (
    SUBPROTOCOL_JSON,
    Ack,
    Err,
    Get,
    Heads,
    Msg,
    Ok,
    Range,
    SyncEnd,
    Welcome,
)

from .relay import (
    ANN,
    ANN1,
    ANN2,
    BOB,
    BOB1,
    BOB2,
    OTHER,
    TALK,
    Relay,
    key_of,
    on_relay,
    send,
    settle,
)


@dataclass
class DeafBus:
    """A bus that loses everything."""

    published: list[object] = field(default_factory=list)

    def publish(self, events: list[object]) -> None:
        self.published += events

    def subscribe(self, listener: object, on_resubscribed: object = None) -> object:
        return lambda: None


async def fill(relay: Relay, messages: int, ct: bytes = b"sealed") -> None:
    """Ann says so many things to Bob, and leaves."""
    ann = await relay.connect(ANN, ANN1)
    for n in range(1, messages + 1):
        await ann.say(send(n, BOB1, ct=ct))
        if n % 32 == 0:
            await ann.say(Ack([(TALK, n)]))
    assert [ok.s for ok in ann.of(Ok)] == list(range(1, messages + 1))
    ann.link.close()
    await settle()


def test_a_message_reaches_the_other_device_sealed_and_the_sender_without_ciphertext() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await ann.say(send(1, BOB1, ct=b"for bob"))

        (ok,) = ann.of(Ok)
        assert (ok.id, ok.s, ok.e, ok.dup) == (1, 1, 1, False)
        assert [(m.s, m.ct, m.sender, m.dev) for m in bob.of(Msg)] == [
            (1, b"for bob", ANN, ANN1)
        ]
        assert [(m.s, m.ct) for m in ann.of(Msg)] == [(1, b"")]

    on_relay(scenario)


def test_a_retry_of_a_key_gets_the_same_sequence_and_is_delivered_once() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await ann.say(send(1, BOB1))
        await ann.say(send(1, BOB1, request=7))

        assert [(ok.id, ok.s, ok.dup) for ok in ann.of(Ok)] == [(1, 1, False), (7, 1, True)]
        assert bob.sequences() == [1]

    on_relay(scenario)


def test_a_json_connection_gets_the_same_messages() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        bob = await relay.connect(BOB, BOB1, subprotocol=SUBPROTOCOL_JSON)
        await ann.say(send(1, BOB1, ct=b"\xff\x00"), send(2, BOB1))

        assert [(m.s, m.ct) for m in bob.of(Msg)] == [(1, b"\xff\x00"), (2, b"sealed")]

    on_relay(scenario)


def test_a_resumed_connection_receives_each_missed_message_once() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 5)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (1, 2)})

        assert bob.of(Welcome)[0].resumed
        assert bob.sequences() == [3, 4, 5]
        assert [end.n for end in bob.of(SyncEnd)] == [3]
        assert bob.of(Heads)[0].h == [(TALK, 1, 5)]

    on_relay(scenario)


def test_a_cursor_of_another_epoch_is_void_and_the_log_starts_anew() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 3)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (9, 3)})

        welcome = bob.of(Welcome)[0]
        assert (welcome.resumed, welcome.reason) == (False, "epoch_changed")
        assert bob.sequences() == [1, 2, 3]

    on_relay(scenario)


def test_a_cursor_beyond_the_head_is_void() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 2)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (1, 50)})

        assert not bob.of(Welcome)[0].resumed
        assert bob.sequences() == [1, 2]

    on_relay(scenario)


def test_credit_stops_the_backlog_and_acks_reopen_it() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 12)
        bob = await relay.connect(BOB, BOB1, cursors={}, win=(5, 0))
        assert bob.sequences() == [1, 2, 3, 4, 5]
        assert not bob.of(SyncEnd)

        await bob.say(Ack([(TALK, 3)]))
        assert bob.sequences() == list(range(1, 9))

        await bob.say(Ack([(TALK, 8)]))
        assert bob.sequences() == list(range(1, 13))
        assert [end.n for end in bob.of(SyncEnd)] == [12]

    on_relay(scenario)


def test_credit_counts_bytes_and_lets_one_large_message_through() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 4, ct=b"x" * 5000)
        bob = await relay.connect(BOB, BOB1, cursors={}, win=(0, 1000))
        assert bob.sequences() == [1]

        await bob.say(Ack([(TALK, 1)]))
        assert bob.sequences() == [1, 2]

    on_relay(scenario)


def test_live_messages_beyond_the_credit_wait_for_an_ack_and_keep_their_order() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        bob = await relay.connect(BOB, BOB1, win=(2, 0))
        await ann.say(*[send(n, BOB1) for n in range(1, 7)])
        assert bob.sequences() == [1, 2]

        for acked in (2, 4):
            await bob.say(Ack([(TALK, acked)]))
        assert bob.sequences() == [1, 2, 3, 4, 5, 6]

    on_relay(scenario)


def test_an_ack_from_the_future_frees_no_more_than_there_is() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        bob = await relay.connect(BOB, BOB1, win=(2, 0))
        await bob.say(Ack([(TALK, 10**15), ("unknown", 4), (TALK, -3)]))
        await ann.say(*[send(n, BOB1) for n in range(1, 4)])

        assert bob.sequences() == [1, 2]

    on_relay(scenario)


def test_a_range_is_answered_from_the_log_and_told_when_there_is_more() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 210)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (1, 210)})
        await bob.say(Get(4, TALK, 1, 210), Get(5, TALK, 209, 900), Get(6, OTHER, 1, 2))

        answers = {answer.id: answer for answer in bob.of(Range)}
        assert [m.s for m in answers[4].msgs] == list(range(1, 201))
        assert (answers[4].more, answers[4].last) == (True, 200)
        assert ([m.s for m in answers[5].msgs], answers[5].more) == ([209, 210], False)
        assert [(err.id, err.code) for err in bob.of(Err)] == [(6, "not_member")]

    on_relay(scenario)


def test_a_range_of_large_messages_is_cut_to_what_a_frame_carries() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 6, ct=b"x" * 60_000)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (1, 6)})
        await bob.say(Get(1, TALK, 1, 6))

        (answer,) = bob.of(Range)
        assert ([m.s for m in answer.msgs], answer.more) == ([1, 2, 3, 4], True)
        assert all(len(payload) <= 256 * 1024 for payload in bob.link.received)

    on_relay(scenario)


def test_purged_messages_arrive_as_void_and_the_sequence_stays_dense() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 4)
        await relay.store.log.purge(TALK, 2)
        relay.messaging.forget_recent(TALK)
        bob = await relay.connect(BOB, BOB1, cursors={})

        assert [(m.s, m.k) for m in bob.of(Msg)] == [
            (1, "void"),
            (2, "void"),
            (3, "msg"),
            (4, "msg"),
        ]

    on_relay(scenario)


def test_a_device_added_later_gets_the_earlier_messages_without_ciphertext() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 2)
        await relay.enrol(BOB, BOB2)
        late = await relay.connect(BOB, BOB2, cursors={})

        assert [(m.s, m.k, m.ct) for m in late.of(Msg)] == [(1, "msg", b""), (2, "msg", b"")]

    on_relay(scenario)


def test_all_devices_of_both_people_get_the_message() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.enrol(ANN, ANN2)
        await relay.enrol(BOB, BOB2)
        ann, second, bob, bobs = [
            await relay.connect(user, device)
            for user, device in ((ANN, ANN1), (ANN, ANN2), (BOB, BOB1), (BOB, BOB2))
        ]
        await ann.say(send(1, ANN2, BOB1, BOB2))

        for device in (second, bob, bobs):
            assert [m.ct for m in device.of(Msg)] == [b"sealed"]

    on_relay(scenario)


def test_a_new_conversation_is_followed_by_who_is_connected() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await relay.converse(OTHER)
        relay.bus.publish([Joined(OTHER, ANN), Joined(OTHER, BOB)])
        await settle()
        await ann.say(send(1, BOB1, c=OTHER))

        assert bob.sequences(OTHER) == [1]

    on_relay(scenario)


def test_a_new_conversation_is_found_by_its_first_message_when_joining_was_not_told() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await relay.converse(OTHER)
        await ann.say(send(1, BOB1, c=OTHER))

        assert bob.sequences(OTHER) == [1]
        assert ann.sequences(OTHER) == [1]

    on_relay(scenario)


def test_who_left_gets_nothing_more() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await relay.store.conversations.remove(TALK, BOB)
        relay.bus.publish([Left(TALK, BOB)])
        await settle()
        await ann.say(send(1))
        await bob.say(Get(3, TALK, 1, 1))

        assert [ok.s for ok in ann.of(Ok)] == [1]
        assert bob.sequences() == []
        assert [err.code for err in bob.of(Err)] == ["not_member"]

    on_relay(scenario)


def test_a_removed_device_is_disconnected() -> None:
    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await relay.store.directory.remove_device(BOB, BOB1)
        relay.bus.publish([DevicesChanged(BOB)])
        await settle()

        assert bob.close_code == 4403

    on_relay(scenario)


def test_a_doorbell_from_another_node_is_followed_to_the_store() -> None:
    async def scenario(relay: Relay) -> None:
        engine = MemoryEngine()
        await relay.node(engine=engine, node_id="second")
        bob = await relay.connect(BOB, BOB1)
        relay.engine = engine
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1), send(2, BOB1))

        assert bob.sequences() == [1, 2]

    on_relay(scenario)


def test_a_lost_last_doorbell_is_made_up_for_by_the_head_check() -> None:
    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await append_elsewhere(relay)
        assert bob.sequences() == []

        await pass_time(31)
        assert bob.sequences() == [1]
        assert relay.messaging.figures.heads_repaired == 1

    on_relay(scenario, bus=DeafBus())


@pytest.mark.slow
def test_with_every_doorbell_lost_messages_of_another_node_arrive_within_six_seconds() -> None:
    async def scenario(relay: Relay) -> None:
        engine = MemoryEngine()
        await relay.node(engine=engine, bus=DeafBus(), node_id="second")
        bob = await relay.connect(BOB, BOB1)
        relay.engine = engine
        ann = await relay.connect(ANN, ANN1)
        waits: list[float] = []
        for n in range(1, 21):
            await pass_time(0.37 + (n % 7) / 3)
            await ann.say(send(n, BOB1))
            await bob.say(Ack([(TALK, n - 1)]))  # Both still live.
            began_s = relay.clock.monotonic_s()
            while n not in bob.sequences():
                await pass_time(0.1)
                assert relay.clock.monotonic_s() - began_s < 10, "never"
            waits.append(relay.clock.monotonic_s() - began_s)
        assert max(waits) <= 6.2
        assert bob.sequences() == list(range(1, 21))

    on_relay(scenario, bus=DeafBus())


def test_what_another_node_stored_is_delivered_from_its_doorbell_without_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("angarium.messaging.service.BUS_MESSAGES_BYTES_MAX", 100)

    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        relay.engine = MemoryEngine()
        second = await relay.node(engine=relay.engine, node_id="second")
        ann = await relay.connect(ANN, ANN1)
        for n in range(1, 4):
            await ann.say(send(n, BOB1))
        await settle()
        assert bob.sequences() == [1, 2, 3]
        assert (relay.messaging.figures.range_reads, second.figures.range_reads) == (0, 0)

        # Too large for a doorbell: it is read.
        await ann.say(send(4, BOB1, ct=b"x" * 101))
        await pass_time(0.1)
        assert bob.sequences() == [1, 2, 3, 4]
        assert relay.messaging.figures.range_reads == 1

    on_relay(scenario)


def test_a_doorbell_whose_forerunner_was_lost_delivers_both_in_order() -> None:
    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await append_elsewhere(relay)
        later = StoredMessage(TALK, 1, 2, key_of(2), ANN, ANN1, 2, "msg", 0, {BOB1: b"sealed"})
        await relay.store.log.append(
            [NewMessage(TALK, ANN, ANN1, key_of(2), 2, "msg", {BOB1: b"sealed"}, 0)]
        )
        relay.bus.publish([Appended(TALK, 1, 2, (ANN, BOB), (later,))])
        await pass_time(0.1)
        assert bob.sequences() == [1, 2]

    on_relay(scenario)


def test_without_the_head_check_a_lost_last_doorbell_is_never_noticed() -> None:
    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await append_elsewhere(relay)

        await pass_time(24)
        await bob.say(Ack([]))
        await pass_time(24)
        assert bob.sequences() == []

    on_relay(scenario, bus=DeafBus(), head_check=False)


def test_a_doorbell_is_rung_again_after_some_seconds() -> None:
    bus = DeafBus()

    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1))
        assert bus.published == [Appended(TALK, 1, 1, (ANN, BOB))]

        await pass_time(7)
        assert bus.published == [Appended(TALK, 1, 1, (ANN, BOB))] * 2

    on_relay(scenario, bus=bus)


def test_a_lost_joining_is_made_up_for_by_the_head_check() -> None:
    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await relay.converse(OTHER)
        await append_elsewhere(relay, OTHER)

        await pass_time(31)
        assert bob.sequences(OTHER) == [1]

    on_relay(scenario, bus=DeafBus())


async def append_elsewhere(relay: Relay, c: str = TALK) -> None:
    """As a node does whose doorbell is lost."""
    from angarium.model.message import NewMessage

    message = NewMessage(c, ANN, ANN1, key_of(1), 1, "msg", {BOB1: b"sealed"}, 0)  # type: ignore[arg-type]
    await relay.store.log.append([message])


async def pass_time(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)
    await settle()
