"""The instruments of the matrix on three real nodes: each shows what it is made to show."""

import asyncio
from collections.abc import Callable

import pytest

from angarium.errors import Unavailable
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]

Make = Callable[..., Cluster]
SHORT_S = (0.05, 0.5)


def test_a_node_killed_and_started_again_under_load_loses_nothing(cluster: Make) -> None:
    async def scenario() -> None:
        async with (
            cluster() as nodes,
            Load(nodes, clients=30, conversations=30, messages_per_s=60) as load,
        ):
            async with load.sending():
                await asyncio.sleep(1.5)
                await nodes.kill(1)
                await asyncio.sleep(1.0)
                await nodes.start_node(1)
                await asyncio.sleep(1.5)
            assert await load.verdict(within_s=60) == []

            found = load.figures()
            assert found["sent"] == found["acked"] > 150
            assert 1 <= found["reconnects"] < 30  # Those of the killed node, not all.
            assert found["reconnect_p99_s"] > 0
            assert load.held_back == 0

    asyncio.run(scenario())


def test_in_a_rolling_restart_with_surge_nobody_is_offline(cluster: Make) -> None:
    async def scenario() -> None:
        async with (
            cluster(nodes=2) as nodes,
            Load(nodes, clients=20, conversations=20, messages_per_s=40) as load,
        ):
            old = set(nodes.nodes)
            async with load.sending():
                await nodes.rolling_restart()
            assert await load.verdict(within_s=60) == []

            assert not old & set(nodes.nodes)
            assert load.figures()["handovers"] >= 20
            assert load.figures()["offline_max"] == 0

    asyncio.run(scenario())


def test_a_balancer_picks_no_node_that_is_gone_or_stands_still(cluster: Make) -> None:
    async def scenario() -> None:
        async with cluster(nodes=2) as nodes:
            addresses = {number: nodes.url(number) for number in nodes.nodes}
            assert {nodes.pick() for _ in range(50)} == set(addresses.values())
            assert nodes.pick(excluding=[addresses[0]]) == addresses[1]

            nodes.pause(0)
            await nodes.until(lambda: nodes.ready == {1})
            assert {nodes.pick() for _ in range(50)} == {addresses[1]}
            nodes.resume(0)
            await nodes.wait_ready(2)

            assert await nodes.term(1) == 0
            await nodes.kill(0)
            await nodes.until(lambda: not nodes.ready)
            with pytest.raises(Unavailable):
                nodes.pick()
            await nodes.start_node(1)
            await nodes.wait_ready(1)
            assert nodes.pick() == addresses[1]  # At its old address.

    asyncio.run(scenario())


def test_each_part_is_reached_through_its_proxy_when_told_so(cluster: Make) -> None:
    async def scenario() -> None:
        async with cluster(nodes=2, proxied=("store", "bus", "nodes")) as nodes:
            assert nodes.store_proxy is not None
            assert nodes.bus_proxy is not None
            async with Load(
                nodes, clients=6, conversations=6, messages_per_s=30, reconnect_s=SHORT_S
            ) as load:
                doors = nodes.door_proxies
                assert sum(door.live for door in doors.values()) == 6
                assert nodes.store_proxy.live >= 2
                assert nodes.bus_proxy.live >= 2
                async with load.sending():
                    doors[0].reset()
                    doors[1].reset()
                    nodes.bus_proxy.reset()
                    nodes.store_proxy.lose_responses(b"insert", times=2)
                    await asyncio.sleep(1.5)
                    await nodes.store_proxy.heal()
                assert await load.verdict(within_s=60) == []
                assert load.figures()["reconnects"] >= 6
                assert nodes.store_proxy.responses_lost == 2

    asyncio.run(scenario())
