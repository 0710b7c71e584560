"""One suite for every connection registry, seen from two nodes; then what only Redis loses."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from angarium.bus.redis_link import RedisLink, open_link
from angarium.bus.redis_registry import RedisRegistry
from angarium.bus.registry import Holder, LocalRegistry, Registry, Table
from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.ids import DeviceId, UserId
from angarium.limits import NODE_LEASE_S, REGISTRY_REFRESH_S
from angarium.testing.redis_server import RedisServer

from .buses import ANN, need_redis, served

BOB = UserId("@bob:test")
PHONE, LAPTOP = DeviceId("ANNPHONE"), DeviceId("ANNLAPTOP")


@dataclass
class Nodes:
    """The registry as nodes `a` and `b` have it; `lapse` lets every lease end."""

    a: Registry
    b: Registry
    lapse: Callable[[], Awaitable[None]]
    lost: list[set[str]] = field(default_factory=list)


Scenario = Callable[[Nodes], Awaitable[None]]


async def on_local(scenario: Scenario) -> None:
    clock, table, lost = ManualClock(), Table(), list[set[str]]()

    async def lapse() -> None:
        clock.advance(NODE_LEASE_S + 1)

    a = LocalRegistry("a", clock, table, on_lost=lost.append)
    await scenario(Nodes(a, LocalRegistry("b", clock, table), lapse, lost))


async def on_redis(scenario: Scenario, url: str) -> None:
    clock, lost, link = ManualClock(), list[set[str]](), open_link(url)
    namespace = f"test-{os.urandom(4).hex()}"

    async def lapse() -> None:
        # As if each lease had ended long ago; the server's clock counts.
        await link.client.zadd(f"{namespace}:nodes", {"a": 1, "b": 1})

    a = RedisRegistry(link, "a", clock, namespace=namespace, on_lost=lost.append)
    b = RedisRegistry(link, "b", clock, namespace=namespace)
    try:
        await scenario(Nodes(a, b, lapse, lost))
    finally:
        await link.close()


@pytest.fixture(params=["local", "redis"])
def with_nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario with two live nodes."""

    async def run(scenario: Scenario) -> None:
        async def alive(nodes: Nodes) -> None:
            await nodes.a.renew()
            await nodes.b.renew()
            await scenario(nodes)

        if request.param == "local":
            await on_local(alive)
        else:
            async with served(tmp_path) as server:
                await on_redis(alive, server.url)

    if request.param == "redis":
        need_redis()
    return lambda scenario: asyncio.run(run(scenario))


def test_a_device_is_found_where_it_connected_last(
    with_nodes: Callable[[Scenario], None],
) -> None:
    async def scenario(nodes: Nodes) -> None:
        first = await nodes.a.take(ANN, PHONE)
        other = await nodes.a.take(ANN, LAPTOP)
        second = await nodes.b.take(ANN, PHONE)

        assert first < second
        assert await nodes.a.find(ANN) == {
            PHONE: Holder("b", second),
            LAPTOP: Holder("a", other),
        }
        assert await nodes.b.find(BOB) == {}

    with_nodes(scenario)


def test_epochs_of_a_device_grow_across_nodes(with_nodes: Callable[[Scenario], None]) -> None:
    async def scenario(nodes: Nodes) -> None:
        epochs = [await (nodes.a, nodes.b)[n % 2].take(ANN, PHONE) for n in range(30)]

        assert epochs == sorted(set(epochs))

    with_nodes(scenario)


def test_simultaneous_connections_get_different_epochs(
    with_nodes: Callable[[Scenario], None],
) -> None:
    async def scenario(nodes: Nodes) -> None:
        epochs = await asyncio.gather(
            *((nodes.a, nodes.b)[n % 2].take(ANN, PHONE) for n in range(30))
        )

        assert len(set(epochs)) == 30
        assert (await nodes.a.find(ANN))[PHONE].epoch == max(epochs)

    with_nodes(scenario)


def test_the_end_of_an_older_connection_leaves_the_newer_one(
    with_nodes: Callable[[Scenario], None],
) -> None:
    async def scenario(nodes: Nodes) -> None:
        older = await nodes.a.take(ANN, PHONE)
        newer = await nodes.b.take(ANN, PHONE)
        await nodes.a.drop(ANN, PHONE, older)
        assert await nodes.a.find(ANN) == {PHONE: Holder("b", newer)}

        await nodes.b.drop(ANN, PHONE, newer)
        assert await nodes.a.find(ANN) == {}

    with_nodes(scenario)


def test_a_node_that_does_not_renew_is_lost_and_its_devices_are_not_found(
    with_nodes: Callable[[Scenario], None],
) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.b.take(ANN, PHONE)
        await nodes.a.renew()
        assert await nodes.a.nodes() == {"a", "b"}
        await nodes.lapse()
        await nodes.a.renew()
        await nodes.a.renew()

        assert await nodes.a.nodes() == {"a"}
        assert await nodes.a.find(ANN) == {}

    with_nodes(scenario)


def test_a_lost_peer_is_told_of_once(with_nodes: Callable[[Scenario], None]) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.a.renew()
        await nodes.b.release()
        await nodes.a.renew()
        await nodes.a.renew()

        assert nodes.lost == [{"b"}]

    with_nodes(scenario)


def test_a_node_that_renews_late_has_its_devices_back(
    with_nodes: Callable[[Scenario], None],
) -> None:
    async def scenario(nodes: Nodes) -> None:
        epoch = await nodes.b.take(ANN, PHONE)
        await nodes.lapse()
        assert await nodes.a.find(ANN) == {}
        await nodes.b.renew()

        assert await nodes.a.find(ANN) == {PHONE: Holder("b", epoch)}

    with_nodes(scenario)


# --- what only Redis can lose ----------------------------------------------------------------

RedisScenario = Callable[
    [RedisServer, RedisLink, RedisRegistry, RedisRegistry], Awaitable[None]
]


def on_two_registries(
    folder: Path, scenario: RedisScenario, clock: ManualClock | None = None
) -> None:
    async def work() -> None:
        async with served(folder) as server:
            link, time = open_link(server.url, wait_s=1.0), clock or ManualClock()
            a, b = (RedisRegistry(link, node, time) for node in "ab")
            await a.renew()
            await b.renew()
            try:
                await scenario(server, link, a, b)
            finally:
                await link.close()

    asyncio.run(work())


def test_after_flushall_each_node_writes_its_own_again(tmp_path: Path) -> None:
    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        older = await a.take(ANN, PHONE)
        newer, other = await b.take(ANN, PHONE), await a.take(ANN, LAPTOP)
        await link.client.flushall()
        assert await a.find(ANN) == {}
        # The one with the older connection is last: it must not win.
        await b.renew()
        await a.renew()

        assert older < newer
        assert await a.find(ANN) == {PHONE: Holder("b", newer), LAPTOP: Holder("a", other)}
        assert await b.take(ANN, PHONE) > newer

    on_two_registries(tmp_path, scenario)


def test_epochs_grow_although_everything_was_lost(tmp_path: Path) -> None:
    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        before = await a.take(ANN, PHONE)
        server.kill()
        await server.start()

        assert await b.take(ANN, PHONE) > before

    on_two_registries(tmp_path, scenario)


def test_flushall_makes_no_node_think_that_others_died(tmp_path: Path) -> None:
    lost: list[set[str]] = []

    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        watcher = RedisRegistry(link, "c", ManualClock(), on_lost=lost.append)
        await watcher.renew()
        await watcher.renew()
        await link.client.flushall()
        for registry in (watcher, a, b, watcher):
            await registry.renew()

        assert lost == []
        assert await watcher.nodes() == {"a", "b", "c"}

    on_two_registries(tmp_path, scenario)


def test_an_entry_that_alone_was_lost_is_written_again_in_time(tmp_path: Path) -> None:
    clock = ManualClock()

    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        epoch = await a.take(ANN, PHONE)
        await link.client.delete("angarium:conn:{@ann:test}")
        await a.renew()
        assert await a.find(ANN) == {}
        clock.advance(REGISTRY_REFRESH_S)
        await a.renew()

        assert await a.find(ANN) == {PHONE: Holder("a", epoch)}

    on_two_registries(tmp_path, scenario, clock)


def test_entries_are_forgotten_by_the_server_when_nobody_refreshes_them(
    tmp_path: Path,
) -> None:
    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        await a.take(ANN, PHONE)
        ttl_s = await link.client.ttl("angarium:conn:{@ann:test}")

        assert REGISTRY_REFRESH_S < ttl_s <= 3600

    on_two_registries(tmp_path, scenario)


def test_without_redis_every_call_is_unavailable_and_renewing_heals(tmp_path: Path) -> None:
    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        epoch = await a.take(ANN, PHONE)
        server.kill()
        for call in (
            a.take(ANN, LAPTOP), a.drop(ANN, LAPTOP, 1), a.find(ANN), a.nodes(), a.renew(),
            a.release(),
        ):  # fmt: skip
            with pytest.raises(Unavailable):
                await call
        await server.start()
        await a.renew()

        assert await b.find(ANN) == {PHONE: Holder("a", epoch)}

    on_two_registries(tmp_path, scenario)


def test_a_connection_that_ended_while_redis_was_paused_is_forgotten_afterwards(
    tmp_path: Path,
) -> None:
    async def scenario(
        server: RedisServer, link: RedisLink, a: RedisRegistry, b: RedisRegistry
    ) -> None:
        epoch = await a.take(ANN, PHONE)
        server.pause()
        with pytest.raises(Unavailable):
            await a.drop(ANN, PHONE, epoch)
        server.resume()
        # The command may have been on its way: an entry of that epoch is put back.
        await link.client.hset("angarium:conn:{@ann:test}", PHONE, f"{epoch}|a")
        await a.renew()

        assert await b.find(ANN) == {}

    on_two_registries(tmp_path, scenario)
