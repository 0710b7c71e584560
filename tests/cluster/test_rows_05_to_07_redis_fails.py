"""Rows 5, 6 and 7: Redis is emptied, killed, frozen, restarted; doorbells and ears are lost.

One cluster serves all tests here; each puts its own load on it and leaves Redis as it was.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis.asyncio as aredis

from angarium.errors import Unavailable
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load
from angarium.testing.redis_server import RedisServer

from .conftest import missing
from .sizes import Size, sizes

pytestmark = [pytest.mark.process, pytest.mark.slow]

HEALED_S = 10.0  # Row 5's bound.
DELIVERED_MS = 6000.0  # Row 6's bound, of the 99th percentile.
KILL_EVERY_S = 0.3
# What two cores carry without doorbells, when each delivery is read from the store. With more
# the clients' queues would be measured, not the healing.
PER_S = 100
Do = Callable[[Callable[[Cluster], Coroutine[Any, Any, None]]], None]


@pytest.fixture(scope="module")
def do(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Do]:
    """do(scenario): run it on the cluster of this module."""
    if sentence := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    nodes = Cluster(tmp_path_factory.mktemp("redis") / "cluster", proxied=("bus",))
    with asyncio.Runner() as runner:
        runner.run(nodes.start())
        try:
            yield lambda scenario: runner.run(scenario(nodes))
        finally:
            runner.run(nodes.stop())


def load_on(nodes: Cluster, size: Size, seed: int) -> Load:
    return Load(
        nodes,
        clients=size.clients,
        conversations=size.clients // 2,
        members=2,
        messages_per_s=size.messages_per_s,
        seed=seed,
    )


def own_redis(nodes: Cluster) -> RedisServer:
    if nodes.redis is None:
        pytest.skip("the server of REDIS_URL is not this test's to kill")
    return nodes.redis


async def tell(nodes: Cluster, *command: str) -> Any:
    """One command on a connection of its own, past the proxy."""
    client = aredis.Redis.from_url(nodes.bus_url)
    try:
        return await client.execute_command(*command)
    finally:
        await client.aclose()


async def healed(nodes: Cluster, load: Load) -> float:
    """Seconds until every node hears the others and the registry names every connection."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while True:
        hearing = [await node.metric("bus_hearing") for node in nodes.nodes.values()]
        named = await tell(nodes, "KEYS", "*:conn:{@load5-*")
        leases = await tell(nodes, "KEYS", "*:nodes")
        alive = await tell(nodes, "ZCARD", leases[0]) if leases else 0
        if all(hearing) and len(named) == len(load.clients) and alive == len(nodes.nodes):
            return loop.time() - began_s
        if loop.time() > began_s + 3 * HEALED_S:
            raise Unavailable(f"hearing {hearing}, {len(named)} in the registry, {alive} alive")
        await asyncio.sleep(0.1)


async def doorbells(nodes: Cluster) -> tuple[bytes, bytes]:
    """What a doorbell's PUBLISH holds, and the same to a topic that nobody hears."""
    topics = await tell(nodes, "PUBSUB", "SHARDCHANNELS") or await tell(
        nodes, "PUBSUB", "CHANNELS"
    )
    (topic,) = (each for each in topics if b":bus:" in each)
    told = b"PUBLISH\r\n$%d\r\n%s\r\n"
    return told % (len(topic), topic), told % (len(topic), b"-" * len(topic))


async def empty(nodes: Cluster, size: Size) -> None:
    await tell(nodes, "FLUSHALL")


async def kill(nodes: Cluster, size: Size) -> None:
    server = own_redis(nodes)
    server.kill()
    await asyncio.sleep(size.seconds / 2)
    await server.start()


async def freeze(nodes: Cluster, size: Size) -> None:
    server = own_redis(nodes)
    server.pause()
    try:
        await asyncio.sleep(size.seconds)
    finally:
        server.resume()


async def restart(nodes: Cluster, size: Size) -> None:
    server = own_redis(nodes)
    with pytest.raises(aredis.ConnectionError):
        await tell(nodes, "SHUTDOWN", "NOSAVE")
    server.kill()  # Only what is left of it.
    await server.start()


@sizes(short=Size(20, 30, 2, settle_s=30), whole=Size(200, PER_S, 10))
def test_row_5_whatever_happens_to_redis_messages_are_delivered_and_it_heals(
    do: Do, record: Callable[..., None], size: Size
) -> None:
    async def scenario(nodes: Cluster) -> None:
        loop = asyncio.get_running_loop()
        heals_s: dict[str, float] = {}
        async with load_on(nodes, size, seed=5) as load:
            await healed(nodes, load)
            began_s = loop.time()
            async with load.sending():
                for break_it in (empty, kill, freeze, restart):
                    await break_it(nodes, size)
                    heals_s[f"{break_it.__name__}_heals_s"] = await healed(nodes, load)
            verdict = await load.verdict(size.settle_s)
            found = load.figures(since_s=began_s)
            record(5, **heals_s, **found)
            assert verdict == []
            assert found["reconnects"] == 0
            assert max(heals_s.values()) < HEALED_S
            assert found["gap_max_ms"] < HEALED_S * 1000

    do(scenario)


@sizes(short=Size(20, 30, 1.5, settle_s=30), whole=Size(200, PER_S, 30))
def test_row_6_without_doorbells_messages_come_within_seconds(
    do: Do, record: Callable[..., None], size: Size
) -> None:
    async def scenario(nodes: Cluster) -> None:
        assert nodes.bus_proxy is not None
        loop = asyncio.get_running_loop()
        gaps_ms: dict[str, float] = {}
        heard, unheard = await doorbells(nodes)
        async with load_on(nodes, size, seed=6) as load:
            try:
                for share in (0.0, 0.3, 1.0):
                    nodes.bus_proxy.falsify(heard, unheard, share)
                    lost, began_s = nodes.bus_proxy.swapped, loop.time()
                    # Without any doorbell, long enough for a look at the store.
                    await load.run(size.seconds if share < 1 else 2 * size.seconds)
                    assert await load.settle(size.settle_s) == []
                    found = load.figures(since_s=began_s)
                    assert (nodes.bus_proxy.swapped > lost) == (share > 0)
                    for name in ("gap_p50_ms", "gap_p99_ms", "gap_max_ms", "delivery_p99_ms"):
                        gaps_ms[f"lost_{share * 100:.0f}_{name}"] = found[name]
            finally:
                await nodes.bus_proxy.heal()
            verdict = await load.verdict(size.settle_s)
            record(6, **gaps_ms)
            assert verdict == []
            assert gaps_ms["lost_100_gap_p99_ms"] <= DELIVERED_MS

    do(scenario)


@sizes(short=Size(20, 30, 2, settle_s=30), whole=Size(200, PER_S, 30))
def test_row_7_subscriptions_cut_again_and_again_lose_nothing(
    do: Do, record: Callable[..., None], size: Size
) -> None:
    async def scenario(nodes: Cluster) -> None:
        loop = asyncio.get_running_loop()
        cut = 0
        async with load_on(nodes, size, seed=7) as load:
            async with load.sending():
                end_s = loop.time() + size.seconds
                while loop.time() < end_s:
                    cut += int(await tell(nodes, "CLIENT", "KILL", "TYPE", "pubsub"))
                    await asyncio.sleep(KILL_EVERY_S)
            verdict = await load.verdict(size.settle_s)
            record(7, cut=cut, **load.figures())
            assert verdict == []
            assert cut >= 2 * len(nodes.nodes)
            assert load.figures()["reconnects"] == 0

    do(scenario)
