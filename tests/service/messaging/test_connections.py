"""Hello, life, leaving, and what a client may not do."""

import asyncio

import pytest

from angarium.protocol.frames import (
    Bye,
    Err,
    Evt,
    Goaway,
    Hello,
    Ok,
    Part,
    Ping,
    Pong,
    Resume,
    Sealed,
    Welcome,
)

from .relay import (
    ANN,
    ANN1,
    ANN2,
    BOB,
    BOB1,
    BOB2,
    TALK,
    Relay,
    on_relay,
    send,
    settle,
)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello(2, ANN1, ANN), 4406),
        (Hello(1, ANN1, "nonsense"), 4401),
        (Hello(1, ANN1, "expired"), 4101),
        (Hello(1, BOB1, ANN), 4403),
        (Hello(1, "NOBODYS", ANN), 4403),
        (Hello(1, ANN1, ANN, resume=Resume({str(n): (1, 1) for n in range(1001)})), 4400),
    ],
    ids=["version", "wrong token", "expired token", "another's device", "unknown", "cursors"],
)
def test_a_hello_that_does_not_hold_is_closed_with_its_code(hello: Hello, code: int) -> None:
    async def scenario(relay: Relay) -> None:
        device = relay.link(ANN1)
        await device.say(hello)

        assert device.close_code == code
        assert [err.id for err in device.of(Err)] == [0]
        assert not device.of(Welcome)

    on_relay(scenario)


def test_an_unsigned_device_may_not_connect_until_it_is_signed() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.enrol(ANN, ANN2, signed=False)
        refused = await relay.connect(ANN, ANN2)
        assert refused.close_code == 4403

        # No event told of the signature: the list is read again all the same.
        await relay.enrol(ANN, ANN2)
        assert (await relay.connect(ANN, ANN2)).of(Welcome)

    on_relay(scenario)


def test_anything_before_hello_is_malformed() -> None:
    async def scenario(relay: Relay) -> None:
        device = relay.link(ANN1)
        await device.say(send(1, BOB1))

        assert device.close_code == 4400

    on_relay(scenario)


def test_bytes_that_are_no_frames_close_the_connection() -> None:
    async def scenario(relay: Relay) -> None:
        garbage, huge = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        garbage.link.send(b"\xc1\xff\x00")
        huge.link.send(b"\x00" * (256 * 1024 + 1))
        await settle()

        assert (garbage.close_code, huge.close_code) == (4400, 4413)

    on_relay(scenario)


def test_no_hello_in_time_ends_the_connection() -> None:
    async def scenario(relay: Relay) -> None:
        device = relay.link(ANN1)
        await asyncio.sleep(9)
        assert device.close_code is None
        await asyncio.sleep(3)

        assert device.close_code == 4401

    on_relay(scenario)


def test_a_silent_peer_is_pinged_and_then_given_up() -> None:
    async def scenario(relay: Relay) -> None:
        silent, alive = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await asyncio.sleep(27)
        assert len(silent.of(Ping)) == 1
        await alive.say(Pong(1))
        await asyncio.sleep(10)

        assert silent.close_code == 4012
        assert alive.close_code is None

    on_relay(scenario)


def test_a_ping_is_answered() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(Ping(41))

        assert [pong.n for pong in ann.of(Pong)] == [41]

    on_relay(scenario)


def test_a_newer_connection_of_the_same_device_replaces_the_older() -> None:
    async def scenario(relay: Relay) -> None:
        older, newer = await relay.connect(ANN, ANN1), await relay.connect(ANN, ANN1)

        assert (older.close_code, newer.close_code) == (4409, None)
        assert relay.messaging.connections == 1

    on_relay(scenario)


def test_bye_is_answered_with_a_normal_close_after_what_is_in_flight() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1), Bye())

        assert [ok.s for ok in ann.of(Ok)] == [1]
        assert ann.close_code == 1000

    on_relay(scenario)


def test_a_drain_asks_to_move_serves_sends_and_closes_at_its_deadline() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        draining = asyncio.create_task(relay.messaging.drain(grace_s=10))
        await settle()
        assert (not relay.messaging.is_ready, len(ann.of(Goaway))) == (True, 1)

        await ann.say(send(1, BOB1))
        assert bob.sequences() == [1]
        refused = await relay.connect(ANN, ANN1)
        assert (refused.close_code, ann.close_code) == (4013, None)

        await bob.say(Bye())
        await draining
        await settle()
        assert (ann.close_code, bob.close_code) == (4001, 1000)

    on_relay(scenario)


def test_a_drain_ends_as_soon_as_everybody_has_moved() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        draining = asyncio.create_task(relay.messaging.drain(grace_s=1000))
        await settle()
        await ann.say(Bye())
        await draining

        assert relay.loop.time() < 1

    on_relay(scenario)


def test_a_peer_that_stops_reading_is_let_go() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        bob.link.stop_reading()
        await ann.say(send(1, BOB1, ct=b"x" * 1000))
        for _ in range(23):
            await asyncio.sleep(1)
            await bob.say(Pong(0))

        assert bob.close_code == 4008
        assert ann.close_code is None

    on_relay(scenario)


def test_typing_and_parts_reach_the_others_and_only_whom_they_are_for() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.enrol(BOB, BOB2)
        ann, bob, bobs = [
            await relay.connect(user, device)
            for user, device in ((ANN, ANN1), (BOB, BOB1), (BOB, BOB2))
        ]
        await ann.say(Evt(TALK, "typing", ttl=9_000_000, sender="@eve:test"))
        await ann.say(Part(TALK, "ref", 0, to=[Sealed(BOB2, b"part")]))
        await ann.say(Part(TALK, "ref", 1, ct=b"for all"))

        (typing,) = bob.of(Evt)
        assert (typing.sender, typing.dev, typing.ttl) == (ANN, ANN1, 6000)
        assert [(part.i, part.ct) for part in bob.of(Part)] == [(1, b"for all")]
        assert [(part.i, part.ct) for part in bobs.of(Part)] == [(0, b"part"), (1, b"for all")]
        assert not ann.of(Evt)
        assert not ann.of(Part)

    on_relay(scenario)


def test_receipts_only_rise_and_never_pass_the_head() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await ann.say(*[send(n, BOB1) for n in range(1, 4)])
        for sequence in (3, 1, 99):
            await bob.say(Evt(TALK, "read", s=sequence))
        await bob.say(Evt(TALK, "delivered", s=2))

        assert await relay.store.receipts.list_of(TALK) == {
            (BOB, "read"): 3,
            (BOB, "delivered"): 2,
        }
        assert {event.sender for event in ann.of(Evt)} == {BOB}

    on_relay(scenario)


def test_presence_is_told_to_those_who_asked_and_take_part() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1, feat=["presence"])
        bob = await relay.connect(BOB, BOB1, feat=["presence"])
        bob.link.close()
        await settle()

        assert [(event.sender, event.on) for event in ann.of(Evt)] == [
            (BOB, True),
            (BOB, False),
        ]
        assert [(event.sender, event.on) for event in bob.of(Evt)] == [(ANN, True)]

    on_relay(scenario)


def test_presence_is_not_told_of_who_did_not_ask() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1, feat=["presence"])
        await relay.connect(BOB, BOB1)

        assert ann.of(Evt) == []

    on_relay(scenario)
