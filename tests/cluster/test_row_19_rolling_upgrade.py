"""Row 19: nodes of two versions in one cluster, there and back again.

ANGARIUM_PREVIOUS names a checkout of the version before this one, whose program runs under this
interpreter. A clone has none, so this test runs where somebody made one, as before a release:

    git worktree add ../previous v1.2.3
    ANGARIUM_PREVIOUS=../previous make test-cluster

What the two say to each other and keep is held to in every run by `test_row_19_recorded_*`.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

pytestmark = [
    pytest.mark.slow, pytest.mark.process, pytest.mark.cluster, pytest.mark.timeout(600),
]  # fmt: skip
Make = Callable[..., Cluster]


@pytest.fixture
def previous() -> Path:
    named = os.environ.get("ANGARIUM_PREVIOUS", "")
    if not named:
        pytest.skip("ANGARIUM_PREVIOUS names no checkout of the version before this one")
    return Path(named).resolve()


def test_an_upgrade_under_load_and_the_way_back_lose_nothing_and_nobody(
    cluster: Make, previous: Path, record: Callable[..., None]
) -> None:
    async def scenario() -> dict[str, float]:
        async with (
            cluster(nodes=2, source=previous) as nodes,
            Load(nodes, clients=20, conversations=20, messages_per_s=40) as load,
        ):
            async with load.sending():
                nodes.program(None)
                await nodes.rolling_restart()
                nodes.program(previous)
                await nodes.rolling_restart()
            assert await load.verdict(within_s=60) == []
            found = load.figures()
            assert found["sent"] == found["acked"] > 0
            assert found["offline_max"] == 0
            return {name: found[name] for name in ("sent", "handovers", "offline_max")}

    record(19, **asyncio.run(scenario()))


@pytest.mark.parametrize("upgraded_first", ["messaging", "gateway bridge"])
def test_agents_answer_once_while_only_one_service_is_upgraded(
    cluster: Make, previous: Path, tmp_path: Path, upgraded_first: str
) -> None:
    from tests.cluster.test_row_17_services_die import being_asked, settle

    async def scenario() -> None:
        services = ("messaging", "gateway bridge")
        async with being_asked(cluster, tmp_path, services, source=previous) as (nodes, asking):
            nodes.program(None)
            for part in (upgraded_first, *(one for one in services if one != upgraded_first)):
                async with asking.going_on():
                    await nodes.replace(services.index(part))
                    await asyncio.sleep(1.0)
                await settle(asking)

    asyncio.run(scenario())
