"""Who is present is told over all nodes: once, and set right when it was told wrongly."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest

from angarium.bus.contract import Ephemeral, Event
from angarium.bus.local import LocalBus
from angarium.bus.presence import LocalPresence
from angarium.errors import Unavailable
from angarium.ids import DeviceId, UserId
from angarium.limits import PRESENCE_LOOK_AGAIN_S, RELIST_EVERY_S, SOFT_AWAY_S
from angarium.messaging.engine import MemoryEngine
from angarium.messaging.service import Messaging
from angarium.protocol.frames import Evt, Hello, Ping

from .relay import ANN, ANN1, ANN2, BOB, BOB1, Relay, ScriptedDevice, on_relay, settle

HERE, GONE = (ANN, True), (ANN, False)


class Lossy(LocalBus):
    """Loses ephemeral events when told to."""

    loses = False

    def publish(self, events: list[Event]) -> None:
        super().publish([e for e in events if not (self.loses and isinstance(e, Ephemeral))])


class Faulty(LocalPresence):
    """May be away; may be asked right before somebody comes elsewhere."""

    away = False
    wait_s = 0.0
    asked = 0

    async def elsewhere(self, users: Collection[UserId]) -> set[UserId]:
        self.asked += 1
        found = await super().elsewhere(users)
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        if self.away:
            raise Unavailable("redis does not answer")
        return found


class TwoNodes:
    """Two nodes; Bob is on the second and hears who is present."""

    def __init__(self, relay: Relay) -> None:
        self.relay, self.bus = relay, Lossy()
        self.table: dict[str, set[UserId]] = {}
        self.presences = [Faulty(name, self.table) for name in "ab"]
        self.engines = [MemoryEngine(), MemoryEngine()]
        self.nodes: list[Messaging] = []
        self.devices: list[ScriptedDevice] = []

    async def start(self) -> None:
        await self.relay.enrol(ANN, ANN2)
        for engine, presence in zip(self.engines, self.presences, strict=True):
            self.nodes.append(
                await self.relay.node(bus=self.bus, engine=engine, presence=presence)
            )
        self.bob = await self.connect(1, BOB, BOB1)

    async def connect(
        self, n: int, user: UserId = ANN, device: DeviceId = ANN1, **named: Any
    ) -> ScriptedDevice:
        self.relay.engine = self.engines[n]
        feat = named.pop("feat", ["presence"])
        self.devices.append(await self.relay.connect(user, device, feat=feat, **named))
        return self.devices[-1]

    async def wait(self, seconds: float) -> None:
        """So much time passes; the connections stay alive."""
        while seconds > 0:
            await asyncio.sleep(min(seconds, 10))
            seconds -= 10
            for device in self.devices:
                if device.close_code is None:
                    await device.say(Ping(1))

    def told(self, device: ScriptedDevice | None = None) -> list[tuple[str, bool]]:
        return [(event.sender, event.on) for event in (device or self.bob).of(Evt)]


def on_two(scenario: Callable[[TwoNodes], Awaitable[Any]]) -> None:
    async def work(relay: Relay) -> None:
        two = TwoNodes(relay)
        await two.start()
        await scenario(two)

    on_relay(work)


async def leave(device: ScriptedDevice) -> None:
    device.link.close()
    device.link.closed = (1000, "")
    await settle()


def test_who_leaves_one_of_two_nodes_is_still_present() -> None:
    async def scenario(two: TwoNodes) -> None:
        one, other = await two.connect(0), await two.connect(1, ANN, ANN2)
        assert two.told() == [HERE]
        await leave(one)
        await two.wait(PRESENCE_LOOK_AGAIN_S * 2)
        assert two.told() == [HERE]
        await leave(other)
        await two.wait(RELIST_EVERY_S * 3)

        assert two.told() == [HERE, GONE]

    on_two(scenario)


def test_who_comes_is_told_who_is_present_on_other_nodes() -> None:
    async def scenario(two: TwoNodes) -> None:
        ann = await two.connect(0)

        assert two.told(ann) == [(BOB, True)]

    on_two(scenario)


def test_users_of_a_dead_node_are_told_to_be_gone_once() -> None:
    async def scenario(two: TwoNodes) -> None:
        await two.connect(0)
        del two.table["a"]  # Its lease ended; it told nobody.
        for _ in range(3):
            two.nodes[1].recheck()
            await settle()
        await two.wait(RELIST_EVERY_S * 2)

        assert two.told() == [HERE, GONE]

    on_two(scenario)


def test_a_node_that_dies_during_a_look_is_looked_after_again() -> None:
    async def scenario(two: TwoNodes) -> None:
        await two.connect(0)
        two.presences[1].wait_s = 0.1
        two.nodes[1].recheck()
        await settle()
        del two.table["a"]
        two.nodes[1].recheck()
        await two.wait(3)

        assert two.told() == [HERE, GONE]

    on_two(scenario)


def test_who_came_from_a_dead_node_to_another_stays_present() -> None:
    async def scenario(two: TwoNodes) -> None:
        await two.connect(0)
        await two.connect(1)
        del two.table["a"]
        two.nodes[1].recheck()
        await settle()

        assert two.told() == [HERE]

    on_two(scenario)


def test_what_was_lost_on_the_way_is_made_up_for() -> None:
    async def scenario(two: TwoNodes) -> None:
        two.bus.loses = True
        ann = await two.connect(0)
        assert two.told() == []
        await two.wait(RELIST_EVERY_S + 2)
        assert two.told() == [HERE]
        await leave(ann)
        assert two.told() == [HERE]
        await two.wait(RELIST_EVERY_S + 2)

        assert two.told() == [HERE, GONE]

    on_two(scenario)


def test_while_it_is_away_a_node_goes_by_its_own_connections_and_mends_it_later() -> None:
    async def scenario(two: TwoNodes) -> None:
        one = await two.connect(0)
        for presence in two.presences:
            presence.away = True
        other = await two.connect(1, ANN, ANN2)
        await leave(one)
        assert two.told() == [HERE, HERE, GONE], "wrong, for the other device is there"
        assert other.close_code is two.bob.close_code is None
        await two.wait(60)
        assert two.told() == [HERE, HERE, GONE]
        assert two.presences[1].asked < 60 / SOFT_AWAY_S + 5
        for presence in two.presences:
            presence.away = False
        await two.wait(SOFT_AWAY_S + 2)

        assert two.told() == [HERE, HERE, GONE, HERE]

    on_two(scenario)


def test_who_comes_elsewhere_just_before_the_telling_is_present_again() -> None:
    async def scenario(two: TwoNodes) -> None:
        one = await two.connect(0)
        two.presences[0].wait_s = 0.1
        await leave(one)
        await two.connect(1)  # Told before the other node tells that it went.
        await two.wait(PRESENCE_LOOK_AGAIN_S + 1)

        assert two.told()[-1] == HERE
        assert two.told().count(GONE) == 1

    on_two(scenario)


def test_who_went_before_the_others_answered_is_not_told_to_have_come() -> None:
    async def scenario(two: TwoNodes) -> None:
        two.presences[0].wait_s = 0.1
        await leave(await two.connect(0))
        await two.wait(PRESENCE_LOOK_AGAIN_S + 1)

        assert two.told() == [GONE]

    on_two(scenario)


def test_somebody_told_of_during_a_look_is_not_told_of_by_it() -> None:
    async def scenario(two: TwoNodes) -> None:
        two.presences[1].wait_s = 0.5
        two.nodes[1].recheck()
        await settle()
        await two.connect(0)
        assert two.told() == [HERE]
        await two.wait(1)
        assert two.told() == [HERE], "the answer was older than the event"
        await two.wait(RELIST_EVERY_S + 2)
        assert two.told() == [HERE]

    on_two(scenario)


def test_connections_that_did_not_ask_for_presence_do_not_count() -> None:
    async def scenario(two: TwoNodes) -> None:
        await two.connect(1, ANN, ANN2, feat=[])
        assert two.told() == []
        one = await two.connect(0)
        await leave(one)

        assert two.told() == [HERE, GONE]

    on_two(scenario)


@pytest.mark.parametrize("shared", [True, False])
def test_two_devices_that_come_together_are_told_once(shared: bool) -> None:
    async def scenario(relay: Relay) -> None:
        await relay.enrol(ANN, ANN2)
        if shared:
            relay.engine = MemoryEngine()
            await relay.node(engine=relay.engine, presence=LocalPresence("a"))
        bob = await relay.connect(BOB, BOB1, feat=["presence"])
        for device in (ANN1, ANN2):
            scripted = relay.link(device)
            hello = Hello(1, device, ANN, "test", ["presence"])
            scripted.link.send(scripted.codec.encode([hello]))
        await settle()

        assert [(event.sender, event.on) for event in bob.of(Evt)] == [HERE]

    on_relay(scenario)
