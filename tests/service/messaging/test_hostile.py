"""One client that means ill, or a defect met while serving one, costs the others nothing."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from angarium.errors import Unauthenticated
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.limits import EVENTS_BURST_S, EVENTS_PER_S, SEND_BUFFER_BYTES_CUT
from angarium.messaging import sending
from angarium.messaging.connection import Authenticated
from angarium.model.conversation import Head
from angarium.model.message import StoredMessage
from angarium.protocol.frames import Ack, Err, Evt, Get, Hello, Ok, Part, Sealed, SyncEnd

from .relay import (
    ANN,
    ANN1,
    ANN2,
    BOB,
    BOB1,
    TALK,
    Relay,
    authenticate,
    key_of,
    on_relay,
    send,
    settle,
)
from .test_delivery import DeafBus, fill, pass_time

BURST = int(EVENTS_PER_S * EVENTS_BURST_S)


def test_a_flood_of_events_is_cut_to_the_rate_and_counted() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        for _ in range(20):
            await ann.say(*[Evt(TALK, "typing") for _ in range(50)])
        assert len(bob.of(Evt)) == BURST
        assert relay.messaging.figures.events_dropped == 1000 - BURST
        assert ann.close_code is None

        await pass_time(1.0)
        await ann.say(*[Evt(TALK, "typing") for _ in range(64)])
        assert BURST + EVENTS_PER_S - 1 <= len(bob.of(Evt)) <= BURST + EVENTS_PER_S + 1

    on_relay(scenario)


def test_the_last_of_many_read_marks_is_kept_whatever_the_rate() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 250)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (1, 250)})
        for at in range(1, 251, 50):
            await bob.say(*[Evt(TALK, "read", s=at + n) for n in range(50)])
        assert relay.messaging.figures.events_dropped == 250 - BURST
        assert await relay.store.receipts.list_of(TALK) == {(BOB, "read"): 250}

    on_relay(scenario)


def test_a_part_costs_as_many_events_as_it_names_devices() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        crowd = [Sealed(f"D{n}", b"x") for n in range(BURST - 1)]
        await ann.say(Part(TALK, key_of(1), 0, [*crowd, Sealed(BOB1, b"y")]))
        await ann.say(Part(TALK, key_of(1), 1, [Sealed(BOB1, b"y")]))
        assert [part.i for part in bob.of(Part)] == [0]

    on_relay(scenario)


def test_a_service_may_stream_more_than_a_person() -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        for at in range(0, 600, 60):
            await ann.say(*[Part(TALK, key_of(1), at + i, ct=b"y") for i in range(60)])
        assert [part.i for part in bob.of(Part)] == list(range(600))

    on_relay(scenario, event_rate=lambda user: 1000.0 if user == ANN else 1.0)


def test_who_asks_for_much_and_reads_nothing_is_cut_off_before_memory_is_gone() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 4, ct=b"x" * 60_000)
        bob = await relay.connect(BOB, BOB1, cursors={TALK: (1, 4)})
        bob.link.stop_reading()
        most_bytes = 0
        for n in range(200):
            await bob.say(*[Get(8 * n + i, TALK, 1, 4) for i in range(8)])
            most_bytes = max(most_bytes, relay.engine.unsent_bytes(bob.link.number))
        assert bob.close_code == 4008
        assert most_bytes < SEND_BUFFER_BYTES_CUT + 8 * 256 * 1024

    on_relay(scenario)


def test_a_defect_while_serving_one_client_loses_no_frame_of_another() -> None:
    def limiter(user: UserId) -> float:
        if user == ANN:
            raise ZeroDivisionError
        return 0.0

    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        # Both arrive in one turn of the loop, hers first.
        ann.link.send(ann.codec.encode([send(1, BOB1)]))
        bob.link.send(bob.codec.encode([send(1, ANN1)]))
        await settle()
        assert [ok.s for ok in bob.of(Ok)] == [1]
        assert (ann.close_code, bob.close_code) == (4002, None)

    on_relay(scenario, limiter=limiter)


def test_an_odd_token_does_not_send_the_whole_batch_of_hellos_away() -> None:
    def odd(token: str, device: DeviceId) -> Authenticated:
        if token == "odd":
            raise RecursionError
        return authenticate(token, device)

    async def scenario(relay: Relay) -> None:
        eve, bob = relay.link(DeviceId("EVEONE")), relay.link(BOB1)
        eve.link.send(eve.codec.encode([Hello(1, "EVEONE", "odd")]))
        bob.link.send(bob.codec.encode([Hello(1, BOB1, BOB)]))
        await settle()
        assert eve.close_code == Unauthenticated.close_code
        assert len(bob.of(SyncEnd)) == 1

    on_relay(scenario, authenticate=odd)


def test_a_removed_device_cannot_send_even_when_nobody_told_this_node() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.enrol(ANN, ANN2)
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, ANN2, BOB1))
        assert [ok.s for ok in ann.of(Ok)] == [1]

        await relay.store.directory.remove_device(ANN, ANN1)
        await pass_time(31)  # What this node knows is too old now.
        await ann.say(send(2, ANN2, BOB1))
        assert [err.code for err in ann.of(Err)][:1] == ["forbidden"]
        assert ann.close_code == 4403
        assert (await relay.store.log.heads([TALK]))[TALK].sequence == 1

    on_relay(scenario, bus=DeafBus(), head_check=False)


def test_a_name_of_many_letters_is_refused_before_anything_is_kept_of_it() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1, feat=["x" * 50_000, "presence"])
        await ann.say(send(1, BOB1, c="c" * 100_000))
        assert [err.code for err in ann.of(Err)] == ["malformed"]
        (connection,) = relay.messaging._hub.of_user(ANN)
        assert connection.machine.features == {"presence"}

    on_relay(scenario)


class TurnedLog:
    """The node's log; with another `epoch` as after a restore beside a running node."""

    def __init__(self, relay: Relay) -> None:
        self._log, self.epoch, self.reads = relay.store.log, 1, 0

    async def append(self, batch: Sequence[object]) -> object:
        return await self._log.append(batch)  # type: ignore[arg-type]

    async def heads(self, names: Sequence[ConversationId]) -> dict[ConversationId, Head]:
        found = await self._log.heads(names)
        return {c: Head(self.epoch, h.sequence, h.floor) for c, h in found.items()}

    async def read(
        self, c: ConversationId, device: DeviceId, first: int, last: int, most: int
    ) -> list[StoredMessage]:
        self.reads += 1
        assert self.reads < 20, "the store is read again and again"
        found = await self._log.read(c, device, first, last, most)
        return [msgspec.structs.replace(message, epoch=self.epoch) for message in found]

    def learn(self, messages: Sequence[StoredMessage]) -> None:
        pass


def test_a_log_restored_beside_a_running_node_makes_its_devices_resume() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.nodes.pop().stop()
        log = TurnedLog(relay)
        await relay.node(log=log, head_check=False)
        ann = await relay.connect(ANN, ANN1)
        bob = await relay.connect(BOB, BOB1, win=(1, 0))
        await ann.say(*[send(n, BOB1) for n in range(1, 4)])
        assert bob.sequences() == [1]

        log.epoch = 2
        relay.messaging.forget_recent(TALK)
        await bob.say(Ack([(TALK, 1)]))
        assert (bob.close_code, bob.sequences()) == (4010, [1])
        again = await relay.connect(BOB, BOB1, cursors={TALK: (1, 1)})
        assert [(m, 2) for m in again.sequences()] == [(1, 2), (2, 2), (3, 2)]

    on_relay(scenario)


class CrashingLog(TurnedLog):
    """Finds nothing at first, and the second look at a head fails as no contract names."""

    looks = 0

    async def read(
        self, c: ConversationId, device: DeviceId, first: int, last: int, most: int
    ) -> list[StoredMessage]:
        return [] if self.looks < 2 else await super().read(c, device, first, last, most)

    async def heads(self, names: Sequence[ConversationId]) -> dict[ConversationId, Head]:
        self.looks += 1
        if self.looks == 2:
            raise ZeroDivisionError
        return await super().heads(names)


def test_a_device_that_was_being_caught_up_goes_on_after_a_defect_of_the_store() -> None:
    async def scenario(relay: Relay) -> None:
        await fill(relay, 3)
        await relay.nodes.pop().stop()
        await relay.node(log=CrashingLog(relay), head_check=False)
        bob = await relay.connect(BOB, BOB1)
        assert bob.sequences() == []
        await pass_time(2)
        assert bob.sequences() == [1, 2, 3]

    on_relay(scenario)


@pytest.mark.parametrize("why", ["slowed down", "of an unknown conversation"])
def test_sends_that_wait_hold_no_more_memory_than_is_meant_for_them(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(sending, "SENDS_HELD_BYTES_MAX", 250)
    slow = why == "slowed down"

    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        conversations = [TALK] * 4 if slow else [f"unknown{n}" for n in range(4)]
        sends = [
            send(1 + n if slow else 1, BOB1, c=c, request=1 + n, ct=b"x" * 100)
            for n, c in enumerate(conversations)
        ]
        ann.link.send(ann.codec.encode(sends))
        await settle(3)
        assert [err.id for err in ann.of(Err) if err.code == "busy"] == [3, 4]

        await asyncio.sleep(5.0)
        assert len(ann.of(Ok)) == (2 if slow else 0)
        ann.link.send(ann.codec.encode(sends[2:]))  # There is room again.
        await asyncio.sleep(5.0)
        assert [err.code for err in ann.of(Err)].count("busy") == 2

    on_relay(scenario, limiter=lambda user: 1.0 if slow else 0.0)
