"""Row 4: the node that works for the agents and the phones stands still, and comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from angarium.errors import Unavailable
from angarium.limits import LEASE_TTL_S
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

from .sizes import Size, sizes
from .town import PAUSE_S, Town, town

pytestmark = [pytest.mark.process, pytest.mark.slow]

NUMBER = "+15550000401"


@asynccontextmanager
async def table(nodes: Cluster) -> AsyncIterator[Any]:
    """The documents of all leases."""
    async with AsyncMongoClient[dict[str, Any]](nodes.store_url) as client:
        yield client.get_default_database()["leases"]


async def holders(nodes: Cluster) -> dict[str, str]:
    """Lease -> the name of the process that holds it."""
    async with table(nodes) as leases:
        return {each["_id"]: each["owner"] async for each in leases.find() if each["owner"]}


async def run_out(nodes: Cluster, names: list[str]) -> None:
    """As if LEASE_TTL_S had passed without a renewal."""
    async with table(nodes) as leases:
        await leases.update_many({"_id": {"$in": names}}, {"$set": {"until_ms": 0}})


def names_of(nodes: Cluster) -> dict[str, int]:
    """The name a process has for leases -> its node."""
    return {
        path.read_text().strip(): number
        for number, node in nodes.nodes.items()
        for path in node.folder.glob("owner-*")
    }


async def taken_over(nodes: Cluster, before: dict[str, str]) -> dict[str, str]:
    """The holders, once none of these leases is held as before."""
    async with asyncio.timeout(LEASE_TTL_S + 30):
        while True:
            now = await holders(nodes)
            if all(now.get(name, owner) != owner for name, owner in before.items()):
                return now
            await asyncio.sleep(0.1)


async def write_from_a_phone(place: Town, said: list[str], stop: asyncio.Event) -> None:
    """One message a while; each is said once, however often its webhook is tried."""
    while not stop.is_set():
        said.append(f"p{len(said)}")
        await place.phones.say(said[-1], NUMBER)
        await asyncio.sleep(PAUSE_S)


async def answered(place: Town, said: list[str]) -> list[str]:
    """The last lines on the phone, once there are as many as were asked for."""
    try:
        await place.phones.next_reply(NUMBER, after=len(said) - 1, wait_s=60)
        await place.phones.settled()
    except Unavailable as error:
        pytest.fail(f"{error}: {len(place.phones.on_phone(NUMBER))} of {len(said)}")
    return [shown.body.splitlines()[-1] for shown in place.phones.on_phone(NUMBER)]


@sizes(short=Size(20, 20, 1, settle_s=30), whole=Size(200, 100, 20))
def test_a_node_that_stood_still_with_the_leases_does_nothing_twice(
    cluster: Callable[..., Cluster], tmp_path: Path, record: Callable[..., None], size: Size
) -> None:
    async def scenario() -> None:
        async with (
            town(cluster, tmp_path) as place,
            Load(
                place.nodes,
                clients=size.clients,
                conversations=size.clients,
                messages_per_s=size.messages_per_s,
            ) as load,
        ):
            nodes, loop = place.nodes, asyncio.get_running_loop()
            people = [await place.person(name) for name in ("ada", "bob")]
            said, stop = list[str](), asyncio.Event()
            await place.phones.say("p0", NUMBER)
            said.append("p0")
            held = await holders(nodes)
            (zombie,) = {names_of(nodes)[owner] for owner in held.values()}
            async with load.sending(), asyncio.TaskGroup() as writing:
                for person in people:
                    writing.create_task(person.write_until(stop))
                writing.create_task(write_from_a_phone(place, said, stop))
                await asyncio.sleep(0.5)
                nodes.pause(zombie)
                stopped_s = loop.time()
                if size.seconds < LEASE_TTL_S:
                    await run_out(nodes, list(held))
                after = await taken_over(nodes, held)
                takeover_s = loop.time() - stopped_s
                await asyncio.sleep(max(1.0, size.seconds - takeover_s))
                nodes.resume(zombie)
                await asyncio.sleep(2.0)
                stop.set()
            assert await holders(nodes) == after
            verdict = await load.verdict(size.settle_s)
            found = load.figures()
            record(4, takeover_s=takeover_s, phone=len(said), **found)
            assert verdict == []
            for person in people:
                assert await person.answers() == [f"echo {text}" for text in person.said]
                assert await person.sequences() == list(range(1, 2 * len(person.said) + 1))
            assert await answered(place, said) == [f"echo {text}" for text in said]

    asyncio.run(scenario())
