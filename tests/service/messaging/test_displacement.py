"""A device's newest connection stays, whichever node it came to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from angarium.bus.contract import Displaced
from angarium.bus.registry import LocalRegistry, Table
from angarium.errors import Unavailable
from angarium.ids import DeviceId, UserId
from angarium.limits import REGISTRY_IN_TIME_S
from angarium.messaging.engine import MemoryEngine
from angarium.messaging.service import Messaging

from .relay import ANN, ANN1, ANN2, BOB, BOB1, Relay, ScriptedDevice, on_relay, send, settle


class SlowRegistry(LocalRegistry):
    """Answers as told: after `wait_s`, or not at all."""

    wait_s = 0.0
    away = False

    async def take(self, user: UserId, device: DeviceId) -> int:
        epoch = await super().take(user, device)
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        if self.away:
            raise Unavailable("redis does not answer")
        return epoch


class TwoNodes:
    """Two nodes over one bus, one store and one table."""

    def __init__(self, relay: Relay) -> None:
        self.relay, self.table = relay, Table()
        self.engines = [MemoryEngine(), MemoryEngine()]
        self.registries = [SlowRegistry(name, relay.clock, self.table) for name in "ab"]
        self.nodes: list[Messaging] = []

    async def start(self) -> None:
        for engine, registry in zip(self.engines, self.registries, strict=True):
            await registry.renew()
            self.nodes.append(await self.relay.node(engine=engine, registry=registry))

    async def connect(
        self, n: int, user: UserId = ANN, device: DeviceId = ANN1
    ) -> ScriptedDevice:
        self.relay.engine = self.engines[n]
        return await self.relay.connect(user, device)


def on_two(scenario: Callable[[TwoNodes], Awaitable[Any]]) -> None:
    async def work(relay: Relay) -> None:
        two = TwoNodes(relay)
        await two.start()
        await scenario(two)

    on_relay(work)


def test_a_newer_connection_on_another_node_displaces_the_older() -> None:
    async def scenario(two: TwoNodes) -> None:
        older = await two.connect(0)
        newer = await two.connect(1)
        assert (older.close_code, newer.close_code) == (4409, None)

        newest = await two.connect(0)
        assert (newer.close_code, newest.close_code) == (4409, None)
        assert [node.connections for node in two.nodes] == [1, 0]
        assert {device: held.node for device, held in two.table.held[ANN].items()} == {
            ANN1: "a"
        }

    on_two(scenario)


def test_other_devices_of_the_user_stay() -> None:
    async def scenario(two: TwoNodes) -> None:
        await two.relay.enrol(ANN, ANN2)
        other, bob = await two.connect(0, ANN, ANN2), await two.connect(0, BOB, BOB1)
        newer = await two.connect(1)

        assert [each.close_code for each in (other, bob, newer)] == [None] * 3

    on_two(scenario)


def test_a_draining_connection_stays_until_it_says_bye() -> None:
    async def scenario(two: TwoNodes) -> None:
        older = await two.connect(0)
        drain = asyncio.create_task(two.nodes[0].drain(grace_s=5.0))
        await settle()
        newer = await two.connect(1)

        assert (older.close_code, newer.close_code) == (None, None)
        await drain
        await settle()
        assert (older.close_code, newer.close_code) == (4001, None)

    on_two(scenario)


def test_the_end_of_a_connection_empties_its_entry() -> None:
    async def scenario(two: TwoNodes) -> None:
        ann = await two.connect(0)
        assert ANN1 in two.table.held[ANN]
        ann.link.close()
        await settle()

        assert two.table.held == {}

    on_two(scenario)


def test_a_connection_that_ended_before_its_epoch_was_known_leaves_no_entry() -> None:
    async def scenario(two: TwoNodes) -> None:
        two.registries[0].wait_s = 0.1
        ann = await two.connect(0)
        ann.link.close()
        await settle()
        await asyncio.sleep(0.2)

        assert two.table.held == {}

    on_two(scenario)


def test_an_older_connection_whose_epoch_comes_late_is_displaced_all_the_same() -> None:
    async def scenario(two: TwoNodes) -> None:
        two.registries[0].wait_s = REGISTRY_IN_TIME_S / 2
        older = await two.connect(0)
        newer = await two.connect(1)
        assert older.close_code is None
        await asyncio.sleep(REGISTRY_IN_TIME_S)

        assert (older.close_code, newer.close_code) == (4409, None)

    on_two(scenario)


def test_a_newer_connection_is_not_displaced_by_what_was_said_before_it() -> None:
    async def scenario(two: TwoNodes) -> None:
        await two.connect(0)
        two.registries[1].wait_s = 0.1
        newer = await two.connect(1)
        two.relay.bus.publish([Displaced(ANN, ANN1, 1)])
        await settle()
        assert newer.close_code is None
        await asyncio.sleep(0.2)

        assert newer.close_code is None

    on_two(scenario)


def test_an_epoch_that_took_too_long_displaces_nobody() -> None:
    async def scenario(two: TwoNodes) -> None:
        first = await two.connect(0)
        two.registries[1].wait_s = REGISTRY_IN_TIME_S * 2
        stalled = await two.connect(1)
        await asyncio.sleep(REGISTRY_IN_TIME_S * 3)

        # Which is the newer one cannot be told; a 4409 would stop the client for good.
        assert (first.close_code, stalled.close_code) == (None, None)

    on_two(scenario)


def test_without_the_registry_both_connections_are_served() -> None:
    async def scenario(two: TwoNodes) -> None:
        for registry in two.registries:
            registry.away = True
        older, newer = await two.connect(0), await two.connect(1)
        bob = await two.connect(1, BOB, BOB1)
        await bob.say(send(1, ANN1))

        assert older.close_code is newer.close_code is None
        assert older.sequences() == newer.sequences() == [1]

    on_two(scenario)


def test_a_stopping_node_leaves_no_work_behind() -> None:
    async def scenario(two: TwoNodes) -> None:
        ann = await two.connect(0)
        await two.nodes[0].stop()
        await settle()

        assert ann.close_code == 4001
        assert len(two.nodes[0]._chores) == 0

    on_two(scenario)
