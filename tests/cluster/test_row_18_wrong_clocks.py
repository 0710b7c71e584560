"""Row 18: nodes whose clocks are ten minutes off, both ways, and are stepped while they work.

Order, dedupe and leases know nothing of it, and neither do those who read when a message came.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from tests.cluster.devices import connect, enrol_pair, make_send
from tests.cluster.services import Answers, Asking, a_person, a_phone, aim, holder, settings_of

from angarium.limits import LEASE_TTL_S
from angarium.protocol.frames import Ok
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]

Make = Callable[..., Cluster]
OFF_S = 600.0
RELAYS, WORKERS = (0, 1), (2, 3)
SERVICES = ("messaging", "messaging", "gateway bridge", "gateway bridge")
ANSWER_WAIT_S = 30.0
TAKEN_OVER_WITHIN_S = LEASE_TTL_S + 10.0


async def lease_epochs(nodes: Cluster) -> dict[str, int]:
    """How often each lease has changed hands."""
    async with AsyncMongoClient[dict[str, Any]](
        nodes.store_url, directConnection=True
    ) as client:
        database = client.get_default_database()
        return {found["_id"]: found["epoch"] async for found in database["leases"].find()}


async def say_on_both_relays(nodes: Cluster, name: str) -> None:
    """A device goes from node to node; a repeated key is one message wherever it is repeated,
    and was accepted when it was, whoever is asked."""
    c, ((user, device), (_, other)) = await enrol_pair(nodes, name)
    first, told = make_send(c, [other], 1), []
    for number in RELAYS:
        phone = await connect(nodes, number, user, device)
        told += [await phone.say(first), await phone.say(make_send(c, [other], number + 2))]
        await phone.client.close()
    assert all(isinstance(answer, Ok) for answer in told), told
    repeated, others = told[::2], told[1::2]
    assert {(ok.s, ok.ts) for ok in repeated if isinstance(ok, Ok)} == {(1, told[0].ts)}
    assert [ok.s for ok in others if isinstance(ok, Ok)] == [2, 3]
    assert all(abs(ok.ts / 1000 - time.time()) < OFF_S / 4 for ok in told)


def test_clocks_that_are_wrong_and_stepped_change_nothing(
    cluster: Make, tmp_path: Path
) -> None:
    async def scenario() -> None:
        answers = Answers()
        async with (
            a_phone(answers) as phone,
            cluster(
                services=SERVICES,
                settings=settings_of(tmp_path, phone),
                skewed_s={0: -OFF_S, 1: OFF_S, 2: -OFF_S, 3: OFF_S},
            ) as nodes,
            a_person(nodes, tmp_path, answers) as ada,
            Load(nodes, clients=15, conversations=15, messages_per_s=30) as load,
        ):
            aim(phone, nodes)
            asking = Asking(ada, phone, answers)
            await asking.once()
            await answers.all_came(ANSWER_WAIT_S)
            works, epochs = await holder(nodes, "gateway"), await lease_epochs(nodes)
            async with load.sending(), asking.going_on():
                for ahead_s in (OFF_S, -OFF_S):
                    await say_on_both_relays(nodes, f"wanders{ahead_s:+.0f}")
                    for number in (RELAYS[0], works):
                        nodes.set_clock(number, ahead_s)
                    await asyncio.sleep(1.5)
            assert await load.verdict(within_s=30) == []
            await answers.all_came(ANSWER_WAIT_S)
            assert set(answers.came.values()) == {1}
            assert await holder(nodes, "gateway") == works
            assert await lease_epochs(nodes) == epochs

    asyncio.run(scenario())


@pytest.mark.cluster
@pytest.mark.timeout(240)
@pytest.mark.parametrize("ahead_s", [OFF_S, -OFF_S])
def test_a_dead_nodes_leases_end_in_time_whatever_its_clock_said(
    cluster: Make, tmp_path: Path, record: Callable[..., None], ahead_s: float
) -> None:
    async def scenario() -> None:
        answers = Answers()
        async with (
            a_phone(answers) as phone,
            cluster(
                services=SERVICES,
                settings=settings_of(tmp_path, phone),
                skewed_s=dict.fromkeys(WORKERS, ahead_s),
            ) as nodes,
            a_person(nodes, tmp_path, answers) as ada,
        ):
            aim(phone, nodes)
            works = await holder(nodes, "gateway")
            stands_by = (set(WORKERS) - {works}).pop()
            nodes.set_clock(stands_by, 0.0)
            asking = Asking(ada, phone, answers)
            await asking.once()
            await answers.all_came(ANSWER_WAIT_S)

            await nodes.kill(works)
            since_s = time.monotonic()
            await asking.once()
            await answers.all_came(TAKEN_OVER_WITHIN_S)
            record(18, ahead_s=ahead_s, taken_over_s=time.monotonic() - since_s)
            assert await holder(nodes, "gateway") == stands_by

    asyncio.run(scenario())
