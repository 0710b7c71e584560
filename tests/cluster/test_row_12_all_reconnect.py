"""Row 12: everybody reconnects at once. All are resumed within 30 s, for two queries each.

Nothing is sent meanwhile, so that what the store is asked is for the resumes alone.
"""

import asyncio
from collections.abc import Callable

import pytest
from tests.cluster.devices import until

from angarium.testing.cluster import Cluster
from angarium.testing.load import Load, raise_file_limit

pytestmark = [pytest.mark.process, pytest.mark.slow]

RESUMED_WITHIN_S = 30.0
QUERIES_EACH = 2
UNAVAILABLE = 4013


def test_a_whole_cluster_of_clients_reconnects_at_once(
    cluster: Callable[..., Cluster], record: Callable[..., None]
) -> None:
    asyncio.run(storm(cluster(nodes=3), record, clients=200))


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_five_thousand_reconnect_at_once(
    cluster: Callable[..., Cluster], record: Callable[..., None]
) -> None:
    raise_file_limit(3 * 5000)  # The nodes inherit it.
    asyncio.run(storm(cluster(nodes=3), record, clients=5000))


async def storm(nodes: Cluster, record: Callable[..., None], *, clients: int) -> None:
    async with (
        nodes,
        Load(nodes, clients=clients, conversations=clients // 2, messages_per_s=50) as load,
    ):
        await load.run(2.0)
        assert await load.settle() == []
        calls = await store_calls(nodes)

        since_s = asyncio.get_running_loop().time()
        for client in load.clients:
            client.sever()
            client.live.clear()

        async def all_live() -> bool:
            return all(client.live.is_set() for client in load.clients)

        resumed_s = await until(all_live, 2 * RESUMED_WITHIN_S)
        asked = (await store_calls(nodes) - calls) / clients
        await load.run(1.0)
        verdict = await load.verdict()
        found = load.figures(since_s)
        closes = [code for h in load.histories for at_s, code in h.closes if at_s >= since_s]
        record(
            12,
            clients=clients,
            resumed_s=resumed_s,
            resumed_p50_s=found["reconnect_p50_s"],
            resumed_p99_s=found["reconnect_p99_s"],
            store_calls_each=asked,
            sent_away=closes.count(UNAVAILABLE),
        )
        assert verdict == []
        assert resumed_s < RESUMED_WITHIN_S
        assert asked <= QUERIES_EACH


async def store_calls(nodes: Cluster) -> float:
    return sum([await node.metric("store_calls") for node in nodes.nodes.values()])
