"""Row 3: every node is replaced under load, and nobody is offline for a moment."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

from .sizes import WHOLE_TIMEOUT_S
from .town import town

pytestmark = [pytest.mark.process, pytest.mark.slow]

PER_S = 300.0
GAP_MS = 1000.0  # The row's bound for the 99th percentile, from stored to delivered.
# The balancer of these tests looks five times a second.
DRAIN = {"drain_wait_s": "0.5", "drain_grace_s": "30"}


@pytest.mark.cluster
@pytest.mark.timeout(WHOLE_TIMEOUT_S)
@pytest.mark.parametrize("surge", [True, False], ids=["replaced", "restarted"])
def test_while_all_three_nodes_are_renewed_nobody_is_offline(
    cluster: Callable[..., Cluster], record: Callable[..., None], surge: bool
) -> None:
    async def scenario() -> None:
        async with (
            cluster(settings=DRAIN) as nodes,
            Load(
                nodes, clients=200, conversations=100, members=2, messages_per_s=PER_S
            ) as load,
        ):
            old = {node.pid for node in nodes.nodes.values()}
            async with load.sending():
                await asyncio.sleep(5)
                await nodes.rolling_restart(surge=surge)
                await asyncio.sleep(5)
            verdict = await load.verdict()
            found = load.figures()
            record(3, **found)
            assert verdict == []
            assert not old & {node.pid for node in nodes.nodes.values()}
            assert found["handovers"] >= len(load.clients)
            assert found["reconnects"] == found["offline_max"] == 0
            assert found["gap_p99_ms"] < GAP_MS

    asyncio.run(scenario())


def test_people_devices_and_the_agent_move_with_the_nodes_and_nobody_is_offline(
    cluster: Callable[..., Cluster], tmp_path: Path, record: Callable[..., None]
) -> None:
    async def scenario() -> None:
        async with (
            town(
                cluster, tmp_path, services="messaging gateway", settings=DRAIN, nodes=2
            ) as at,
            Load(at.nodes, clients=20, conversations=20, messages_per_s=20) as load,
        ):
            people = [await at.person(name) for name in ("ada", "bob")]
            stop = asyncio.Event()
            async with load.sending(), asyncio.TaskGroup() as writing:
                for person in people:
                    writing.create_task(person.write_until(stop))
                await at.nodes.rolling_restart()
                stop.set()
            verdict = await load.verdict(within_s=30)
            record(3, said=sum(len(person.said) for person in people), **load.figures())
            assert verdict == []
            assert load.figures()["offline_max"] == 0
            for person in people:
                assert await person.answers() == [f"echo {text}" for text in person.said]
                assert await person.sequences() == list(range(1, 2 * len(person.said) + 1))
                assert person.states <= {"live", "syncing", "migrating"}
                assert "migrating" in person.states

    asyncio.run(scenario())
