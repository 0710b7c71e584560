"""When the bus hears again, the store is asked at once: what was said meanwhile is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

from angarium.bus.contract import Event, Listener, OnResubscribed
from angarium.ids import ConversationId

from .relay import ANN1, BOB, BOB1, TALK, Relay, on_relay, send, settle
from .test_delivery import append_elsewhere


class LostBus:
    """Hears nobody until `found` is called."""

    def __init__(self) -> None:
        self._found: list[OnResubscribed] = []
        self.listeners = 0
        self.published: list[Event] = []

    def publish(self, events: list[Event]) -> None:
        self.published += events

    def subscribe(
        self, listener: Listener, on_resubscribed: OnResubscribed | None = None
    ) -> Callable[[], None]:
        assert on_resubscribed is not None
        self._found.append(on_resubscribed)
        return self._found.clear

    def found(self) -> None:
        for call in self._found:
            call()


class CountingLog:
    """The store's log, counting how often heads are asked for."""

    def __init__(self, relay: Relay) -> None:
        self.asked = 0
        self._log: Any = relay.store.log
        relay.messaging._delivery._log = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def heads(self, conversations: list[ConversationId]) -> Any:
        self.asked += 1
        return await self._log.heads(conversations)


def test_what_was_missed_arrives_as_soon_as_the_bus_hears_again() -> None:
    bus = LostBus()

    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await append_elsewhere(relay)
        await settle()
        assert bob.sequences() == []

        bus.found()
        await settle()
        assert bob.sequences() == [1]

    on_relay(scenario, bus=bus)


def test_own_doorbells_are_rung_again_as_soon_as_the_bus_hears_again() -> None:
    bus = LostBus()

    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await bob.say(send(1, ANN1))
        assert len(bus.published) == 1
        bus.found()

        assert len(bus.published) == 2

    on_relay(scenario, bus=bus)


def test_a_bus_that_comes_and_goes_does_not_flood_the_store() -> None:
    bus = LostBus()

    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        log = CountingLog(relay)
        for _ in range(100):
            bus.found()
            await settle(3)
        assert log.asked == 1

        # The last one is not forgotten, only put off.
        await append_elsewhere(relay)
        bus.found()
        await asyncio.sleep(2.5)
        assert bob.sequences() == [1]
        assert log.asked <= 3

    on_relay(scenario, bus=bus)


def test_a_conversation_joined_meanwhile_is_found_too() -> None:
    bus = LostBus()
    other = ConversationId("0192f000-0000-7000-8000-000000000002")

    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await relay.converse(other)
        await append_elsewhere(relay, other)
        bus.found()
        await settle(60)

        assert bob.sequences(other) == [1]
        assert bob.sequences(TALK) == []

    on_relay(scenario, bus=bus)


def test_while_the_bus_is_deaf_messages_of_other_nodes_arrive_within_two_seconds() -> None:
    async def scenario(relay: Relay) -> None:
        bob = await relay.connect(BOB, BOB1)
        await asyncio.sleep(7)
        await append_elsewhere(relay)
        await asyncio.sleep(2.2)

        assert bob.sequences() == [1]

    on_relay(scenario, bus=LostBus(), bus_hears=lambda: False)
