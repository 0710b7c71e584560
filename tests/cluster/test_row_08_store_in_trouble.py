"""Row 8: the store is lost, slow, loses its answers, or carries out a write long after.

Who sends meanwhile is told `unavailable` or `busy` and when to come again; queues and memory
stay bounded; nothing is lost or stored twice; and it heals by itself.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from tests.cluster.devices import Phone, connect, enrol_pair, enrol_pairs, make_send, until

from angarium.limits import APPEND_QUEUE_BYTES, MONGO_CALL_S, SENDS_HELD_BYTES_MAX
from angarium.protocol.frames import Err, Ok
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]

MEBIBYTE = 1024 * 1024
FLOODING, LARGE_BYTES = 200, 60_000
COMES_AGAIN = {"unavailable", "busy"}


@pytest.fixture(scope="module")
def nodes(start_cluster: Callable[..., Cluster]) -> Cluster:
    return start_cluster(nodes=2, proxied=["stores"])


@asynccontextmanager
async def store_gone(nodes: Cluster) -> AsyncIterator[None]:
    """The primary is lost: killed where it is a process of ours, else out of reach."""
    for proxy in nodes.store_proxies.values():
        await proxy.refuse()
    if nodes.mongo is not None:
        nodes.mongo.kill()
    for proxy in nodes.store_proxies.values():
        proxy.reset()
    try:
        yield
    finally:
        if nodes.mongo is not None:
            await asyncio.to_thread(nodes.mongo.start)
        for proxy in nodes.store_proxies.values():
            await proxy.heal()


async def refusal(phone: Phone, send: Any) -> Err:
    """What the node says to a send it cannot store."""
    phone.client.send([send])
    (err,) = await phone.all(Err, 1, MONGO_CALL_S + 10)
    return err


async def ask_api(nodes: Cluster, user: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=MONGO_CALL_S + 10) as http:
        headers = {"Authorization": f"Bearer {nodes.token(user)}"}
        url = f"{nodes.nodes[0].http_url}/v1/conversations"
        return await http.get(url, headers=headers)


def memory_bytes(nodes: Cluster) -> int:
    return max(node.rss_bytes() for node in nodes.nodes.values())


async def is_recovered(load: Load) -> bool:
    return load.unconfirmed < load.messages_per_s


async def lose_store(
    nodes: Cluster, load: Load, phone: Phone, send: Any, gone_s: float
) -> dict[str, float]:
    """The store is away under load; what everybody is told, and the figures of it."""
    user = load.clients[0].user
    async with load.sending():
        await asyncio.sleep(1.0)
        before_bytes = memory_bytes(nodes)
        async with store_gone(nodes):
            told, answer, _ = await asyncio.gather(
                refusal(phone, send), ask_api(nodes, user), asyncio.sleep(gone_s)
            )
            waiting = load.unconfirmed
        recovered_s = await until(lambda: is_recovered(load), 30)
        grown_bytes = memory_bytes(nodes) - before_bytes
    assert told.code in COMES_AGAIN
    assert told.retry
    assert told.after_ms > 0
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] in COMES_AGAIN
    assert answer.json()["error"]["after_ms"] > 0
    assert int(answer.headers["Retry-After"]) >= 1
    return {
        "gone_s": gone_s,
        "unconfirmed_max": waiting,
        "recovered_s": recovered_s,
        "grown_mib": grown_bytes / MEBIBYTE,
    }


def test_a_store_that_is_lost_and_comes_back_loses_nothing(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        c, ((user, device), (_, other)) = await enrol_pair(nodes, "lost")
        async with Load(nodes, clients=20, conversations=20, messages_per_s=40) as load:
            phone = await connect(nodes, 0, user, device)
            found = await lose_store(nodes, load, phone, make_send(c, [other], 1), 3.0)
            assert await load.verdict() == []
            assert found["grown_mib"] < 32
            await phone.client.close()

    run(scenario())


def test_a_slow_store_slows_acknowledgements_and_loses_nothing(
    run: Any, nodes: Cluster
) -> None:
    async def scenario() -> None:
        async with Load(nodes, clients=20, conversations=20, messages_per_s=40, seed=2) as load:
            for proxy in nodes.store_proxies.values():
                proxy.delay(250, 250)
            await load.run(3.0)
            for proxy in nodes.store_proxies.values():
                await proxy.heal()
            assert await load.verdict() == []
            found = load.figures()
            assert found["ack_p50_ms"] >= 500
            assert found["refused"] == found["reconnects"] == 0

    run(scenario())


def test_answers_of_the_store_that_are_lost_make_no_copy(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        async with Load(nodes, clients=20, conversations=20, messages_per_s=40, seed=3) as load:
            for proxy in nodes.store_proxies.values():
                proxy.lose_responses(b"insert", times=5)
            await load.run(3.0)
            lost = sum(proxy.responses_lost for proxy in nodes.store_proxies.values())
            for proxy in nodes.store_proxies.values():
                await proxy.heal()
            assert await load.verdict() == []
            assert lost >= 5

    run(scenario())


def test_a_write_that_lands_long_after_it_was_given_up_makes_no_copy(
    run: Any, nodes: Cluster
) -> None:
    """The device has moved to another node by then, and gone on."""

    async def scenario() -> None:
        c, ((user, device), (_, other)) = await enrol_pair(nodes, "zombie")
        first, second = make_send(c, [other], 1), make_send(c, [other], 2)
        phone = await connect(nodes, 0, user, device)
        assert isinstance((await phone.say(first)), Ok)
        nodes.store_proxies[0].stall()
        told = await refusal(phone, second)
        assert told.code in COMES_AGAIN
        await phone.client.close()

        moved = await connect(nodes, 1, user, device, cursors={c: (1, 1)})
        said = [await moved.say(send) for send in (second, make_send(c, [other], 3))]
        await nodes.store_proxies[0].heal()  # Now the first node's write goes through.
        said += [await moved.say(second)]
        assert [(ok.s, ok.dup) for ok in said if isinstance(ok, Ok)] == [
            (2, False),
            (3, False),
            (2, True),
        ]
        await until(lambda: _works(nodes, 0))
        async with nodes.open_store() as store:
            log = await store.log.read(c, other, 1, 100, 100)
        assert [(m.sequence, m.cs) for m in log] == [(1, 1), (2, 2), (3, 3)]
        await moved.client.close()

    run(scenario())


async def _works(nodes: Cluster, number: int) -> bool:
    return number in nodes.ready


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_the_store_is_lost_for_5_s_then_slow_under_the_full_load(
    run: Any, nodes: Cluster, record: Callable[..., None]
) -> None:
    async def scenario() -> None:
        c, ((user, device), (_, other)) = await enrol_pair(nodes, "full")
        async with Load(
            nodes, clients=200, conversations=100, messages_per_s=150, seed=4
        ) as load:
            phone = await connect(nodes, 0, user, device)
            found = await lose_store(nodes, load, phone, make_send(c, [other], 1), 5.0)
            for proxy in nodes.store_proxies.values():
                proxy.delay(250, 250)
            async with load.sending():
                await asyncio.sleep(10.0)
                waiting = load.unconfirmed
            for proxy in nodes.store_proxies.values():
                await proxy.heal()
            assert await load.verdict() == []
            record(8, **found, unconfirmed_slow=waiting, **load.figures())
            assert found["grown_mib"] < 64
            await phone.client.close()

    run(scenario())


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_flood_while_the_store_is_gone_fills_bounded_queues_and_no_memory(
    run: Any, nodes: Cluster, record: Callable[..., None]
) -> None:
    """Devices that heed no limit send the largest messages, again as soon as refused."""

    async def scenario() -> None:
        pairs = await enrol_pairs(nodes, "flood", FLOODING)
        phones = [await connect(nodes, 0, *people[0]) for _, people in pairs]
        before_bytes = memory_bytes(nodes)
        grown_bytes = sent = 0
        body = os.urandom(LARGE_BYTES)
        async with store_gone(nodes):
            deadline_s = asyncio.get_running_loop().time() + 10.0
            while asyncio.get_running_loop().time() < deadline_s:
                for phone, (c, people) in zip(phones, pairs, strict=True):
                    phone.client.send([make_send(c, [people[1][1]], 1, ct=body)])
                    sent += 1
                    phone.frames = [f for f in phone.frames if not isinstance(f, Err)]
                await asyncio.sleep(0)
                grown_bytes = max(grown_bytes, memory_bytes(nodes) - before_bytes)
        sent_mib, grown_mib = sent * LARGE_BYTES / MEBIBYTE, grown_bytes / MEBIBYTE
        record(8, sent_mib=sent_mib, grown_mib=grown_mib)
        assert sent_mib > 500
        # Of each waiting message the frame's and the message's copy, and what Python adds.
        assert grown_bytes < 2 * (APPEND_QUEUE_BYTES + SENDS_HELD_BYTES_MAX)
        for phone in phones:
            await phone.client.close()

    run(scenario())
