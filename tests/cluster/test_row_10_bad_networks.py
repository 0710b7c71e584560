"""Row 10: the network before a node resets, falls silent, is slow, or lets bytes trickle.

Dead peers are found within 35 s and nobody misses a message.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.devices import until

from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]

SHORT_S = (0.05, 0.5)
FOUND_WITHIN_S = 35.0
PAUSE_S = 1.0


@pytest.fixture(scope="module")
def nodes(start_cluster: Callable[..., Cluster]) -> Cluster:
    return start_cluster(nodes=2, proxied=["nodes"])


def of_node(load: Load, url: str) -> list[Any]:
    return [client for client in load.clients if url in client.urls]


async def is_empty(nodes: Cluster, number: int) -> bool:
    """Whether a node has no connection any more."""
    return not await nodes.nodes[number].metric("messaging_connections")


async def have_moved(clients: list[Any], url: str) -> bool:
    return all(client.online and client.urls == {url} for client in clients)


def test_connections_that_are_reset_resume_and_miss_nothing(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        async with Load(
            nodes, clients=16, conversations=16, messages_per_s=40, seed=1, reconnect_s=SHORT_S
        ) as load:
            async with load.sending():
                for _ in range(3):
                    for door in nodes.door_proxies.values():
                        door.reset()
                    await asyncio.sleep(PAUSE_S)
            assert await load.verdict() == []
            assert load.figures()["reconnects"] >= 2 * len(load.clients)

    run(scenario())


def test_a_slow_network_delays_and_loses_nothing(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        async with Load(nodes, clients=16, conversations=16, messages_per_s=40, seed=2) as load:
            for door in nodes.door_proxies.values():
                door.delay(100, 100)
            await load.run(2 * PAUSE_S)
            assert await load.verdict() == []
            assert load.figures()["ack_p50_ms"] >= 200
            assert load.figures()["reconnects"] == 0
            for door in nodes.door_proxies.values():
                await door.heal()

    run(scenario())


def test_clients_that_get_a_byte_a_second_hold_up_nobody_and_catch_up(
    run: Any, nodes: Cluster
) -> None:
    async def scenario() -> None:
        async with Load(nodes, clients=16, conversations=16, messages_per_s=40, seed=3) as load:
            slow, quick = of_node(load, nodes.url(0)), of_node(load, nodes.url(1))
            assert slow
            assert quick
            nodes.door_proxies[0].throttle(response_bytes_per_s=1)
            await load.run(3 * PAUSE_S)
            await asyncio.sleep(PAUSE_S)
            assert sum(client.unconfirmed for client in slow) > 0
            assert sum(client.unconfirmed for client in quick) == 0
            await nodes.door_proxies[0].heal()
            assert await load.verdict() == []

    run(scenario())


@pytest.mark.cluster
def test_peers_that_fell_silent_are_found_within_35_s(
    run: Any, nodes: Cluster, record: Callable[..., None]
) -> None:
    """Half-open: both ends stand, and nothing passes between them."""

    async def scenario() -> None:
        async with Load(
            nodes, clients=16, conversations=16, messages_per_s=40, seed=4, reconnect_s=SHORT_S
        ) as load:
            cut = of_node(load, nodes.url(0))
            assert not await is_empty(nodes, 0)
            async with load.sending():
                nodes.door_proxies[0].black_hole()
                since_s = asyncio.get_running_loop().time()
                node_found_s, moved_s = await asyncio.gather(
                    until(lambda: is_empty(nodes, 0), 2 * FOUND_WITHIN_S),
                    until(lambda: have_moved(cut, nodes.url(1)), 2 * FOUND_WITHIN_S),
                )
            await nodes.door_proxies[0].heal()
            assert await load.verdict() == []
            lost_s = [c.history.offline[-1].since_s - since_s for c in cut]
            found_s = max(lost_s)
            record(10, node_found_s=node_found_s, client_found_s=found_s, moved_s=moved_s)
            assert max(node_found_s, found_s) <= FOUND_WITHIN_S + 0.5  # Of our asking.

    run(scenario())
