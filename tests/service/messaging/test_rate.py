"""A client over its rate: what it queued drains steadily, in order, without hammering."""

import asyncio

import pytest

from angarium.clock import Clock
from angarium.ids import ConversationId
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.codec import MsgpackCodec
from angarium.protocol.effects import CloseLink, Deliver, Effect, OpenLink, Stored, Transmit
from angarium.protocol.frames import Sealed, Send
from angarium.protocol.outflow import Outgoing
from angarium.server.limiter import Limiter

from .relay import ANN, ANN1, BOB1, OTHER, TALK, Relay, key_of, on_relay, settle


class Driven:
    """The product's own client machine on a link of the relay, driven by the loop's time."""

    def __init__(self, relay: Relay, clock: Clock) -> None:
        self.machine = ClientMachine(device=ANN1, random=lambda: 0.5)
        self.sent: list[tuple[str, int]] = []
        self.stored: list[tuple[str, str]] = []
        self._relay, self._clock, self._codec = relay, clock, MsgpackCodec()
        self._timer: asyncio.TimerHandle | None = None

    def act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case OpenLink():
                    self._open(effect.link)
                case Transmit():
                    sends = [each for each in effect.frames if isinstance(each, Send)]
                    self.sent += [(each.c, each.cs) for each in sends]
                    self.link.send(self._codec.encode(effect.frames))
                case Deliver():
                    for message in effect.messages:
                        now_s = self._clock.monotonic_s()
                        self.act(self.machine.committed(message.c, message.s, 1, now_s))
                case Stored():
                    self.stored.append((effect.c, effect.key))
                case CloseLink():
                    raise AssertionError("the link must hold")
                case _:
                    pass
        self._arm()

    def _open(self, number: int) -> None:
        self.link = self._relay.engine.connect()
        self.link.on_message = lambda payload: self.act(
            self.machine.received(
                number, self._codec.decode_server(payload), self._clock.monotonic_s()
            )
        )
        self.act(self.machine.opened(number, ANN, self._clock.monotonic_s()))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now_s = self._clock.monotonic_s()
        due_s = self.machine.due_s(now_s)
        if due_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due_s - now_s), self._tick)

    def _tick(self) -> None:
        self.act(self.machine.tick(self._clock.monotonic_s()))

    def submit(self, n: int, c: str) -> None:
        send = Outgoing(c, key_of(n), n, (Sealed(BOB1, b"sealed"),))
        self.act(self.machine.submit(send, self._clock.monotonic_s()))


async def connected(relay: Relay, rate_per_minute: int) -> Driven:
    await relay.nodes.pop().stop()
    await relay.node(limiter=Limiter(rate_per_minute, relay.clock).check)
    ann = Driven(relay, relay.clock)
    ann.act(ann.machine.start(relay.clock.monotonic_s()))
    await settle()
    return ann


async def counters(relay: Relay, c: ConversationId) -> list[int]:
    return [message.cs for message in await relay.store.log.read(c, BOB1, 1, 300, 300)]


@pytest.mark.parametrize(("rate_per_minute", "messages"), [(30, 200), (10, 60), (60, 200)])
def test_queued_messages_drain_at_the_rate_in_order_and_without_hammering(
    rate_per_minute: int, messages: int
) -> None:
    async def scenario(relay: Relay) -> None:
        ann = await connected(relay, rate_per_minute)
        for n in range(1, messages + 1):
            ann.submit(n, TALK)
        began_s = relay.clock.monotonic_s()
        allowed_s = (messages - rate_per_minute) * 60 / rate_per_minute
        while len(ann.stored) < messages:
            await asyncio.sleep(1.0)
            assert relay.clock.monotonic_s() - began_s < 1.2 * allowed_s + 10
        assert await counters(relay, TALK) == list(range(1, messages + 1))
        assert relay.clock.monotonic_s() - began_s > 0.95 * allowed_s
        assert len(ann.sent) < 3 * messages, "tried a few times, not again and again"

    on_relay(scenario)


def test_two_conversations_share_the_rate_and_both_go_on() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.converse(OTHER)
        ann = await connected(relay, 30)
        for n in range(1, 41):
            ann.submit(n, TALK)
            ann.submit(n, OTHER)
        await asyncio.sleep(120)
        for c in (TALK, OTHER):
            stored = await counters(relay, c)
            assert stored == list(range(1, len(stored) + 1))
            assert len(stored) >= 20
        assert len(ann.stored) >= 78

    on_relay(scenario)
