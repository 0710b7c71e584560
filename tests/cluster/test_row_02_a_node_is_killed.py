"""Row 2: kill -9 of a node each 2 seconds, whoever was connected to it."""

import asyncio
from collections.abc import Callable

import pytest

from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

from .sizes import Size, sizes

pytestmark = [pytest.mark.process, pytest.mark.slow]

KILL_EVERY_S = 2.0
BACK_S = 5.0  # The row's bound for the 99th percentile of reconnects.


async def kill_in_turn(nodes: Cluster, seconds: float) -> int:
    """Kill and start again one after another; how many were killed.

    The only node that is ready is spared: nobody serves from no node at all.
    """
    loop = asyncio.get_running_loop()
    end_s, killed, last = loop.time() + seconds, 0, -1
    async with asyncio.TaskGroup() as starting:
        while loop.time() < end_s:
            await asyncio.sleep(KILL_EVERY_S)
            ready = sorted(nodes.ready)
            if len(ready) < 2:
                continue
            last = next((number for number in ready if number > last), ready[0])
            await nodes.kill(last)
            killed += 1
            starting.create_task(nodes.start_node(last))
    return killed


@sizes(short=Size(30, 60, 5, settle_s=30), whole=Size(200, 300, 60))
def test_nodes_killed_one_after_another_lose_nothing(
    cluster: Callable[..., Cluster], record: Callable[..., None], size: Size
) -> None:
    async def scenario() -> None:
        async with (
            cluster() as nodes,
            Load(
                nodes,
                clients=size.clients,
                conversations=size.clients // 2,
                members=2,
                messages_per_s=size.messages_per_s,
            ) as load,
        ):
            async with load.sending():
                killed = await kill_in_turn(nodes, size.seconds)
            verdict = await load.verdict(size.settle_s)
            found = load.figures()
            record(2, killed=killed, **found)
            assert verdict == []
            assert killed >= 2
            assert load.held_back == 0
            assert found["reconnects"] >= size.clients / 3
            assert found["reconnect_p99_s"] < BACK_S

    asyncio.run(scenario())
