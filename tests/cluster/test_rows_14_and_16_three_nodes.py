"""Row 14: frames from hell close their connection, and neither crash a node nor grow it.
Row 16: twenty senders in one conversation over three nodes leave it dense and in their order.

What a node says to each kind of bad frame, one by one: tests/node/test_bad_bytes.py and
tests/node/test_bad_input.py.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.cluster.devices import Phone, connect, enrol_pair, make_send
from tests.node.test_bad_bytes import damaged

from angarium.limits import FRAME_BYTES_MAX
from angarium.protocol.codec import MsgpackCodec
from angarium.protocol.frames import Ack, Evt, Get, Hello, Ok, Part, Ping, Pong, Sealed
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]

MEBIBYTE = 1024 * 1024
PROTOCOL_CLOSES = range(4400, 4500)
TOO_LARGE_FOR_WEBSOCKET = 1009
PER_S = 300
SENDERS = 20
Person = tuple[str, str]


@pytest.fixture(scope="module")
def nodes(start_cluster: Callable[..., Cluster]) -> Cluster:
    return start_cluster(nodes=3)


# --- row 14 ---


def bad_payloads(chance: random.Random, c: str, to: str, count: int) -> Iterator[bytes]:
    """Truncated, oversized, of wrong types, nested, replayed, and simply damaged."""
    pack, key = MsgpackCodec().encode, "0192f5d8-6b7e-7c3a-9d2e-1f2a3b4c5d6e"
    send = make_send(c, [to], 1)  # type: ignore[arg-type]
    sound = [
        pack([send]),
        pack([Ack([(c, 1)]), Ping(7)]),
        pack([Get(2, c, 1, 5)]),
        pack([Evt(c, "typing", ttl=5000), Evt(c, "read", s=1)]),
        pack([Part(c, key, 3, [Sealed(to, b"x" * 40)])]),
        pack([Hello(1, "DEVICE", "token")]),
    ]
    odd: list[Any] = [None, True, -1, 2**63 - 1, 1.5, "x" * 5000, b"", [], {}, [[]], {"a": {}}]
    for _ in range(count):
        whole = chance.choice(sound)
        match chance.randrange(6):
            case 0:
                yield whole[: chance.randrange(1, len(whole))]
            case 1:
                yield whole + bytes(chance.choice([1, FRAME_BYTES_MAX, 4 * FRAME_BYTES_MAX]))
            case 2:
                frames = msgspec.msgpack.decode(whole)
                frame = frames[0] if isinstance(frames, list) else frames
                frame[chance.choice(list(frame))] = chance.choice(odd)
                yield msgspec.msgpack.encode(frames)
            case 3:
                yield chance.choice([b"\x91", b"\x81\xa1a"]) * chance.randrange(1, 100_000)
            case 4:
                yield pack([send] * chance.randrange(1, 64))
            case _:
                yield damaged(chance, whole)


async def survive(
    nodes: Cluster, number: int, person: Person, payloads: Iterator[bytes]
) -> set[int]:
    """Send all, each on a connection that stands; the codes that the others closed with."""
    codes: set[int] = set()
    phone: Phone | None = None
    for n, payload in enumerate(payloads):
        if phone is None or phone.client.closed.is_set():
            phone = await connect(nodes, number, *person)
        phone.client.send_bytes(payload)
        phone.client.send([Ping(n)])
        if not await has_pong(phone, n):
            codes.add(phone.client.close_code)
            phone = None
    if phone is not None:
        await phone.client.close()
    return codes


async def has_pong(phone: Phone, number: int) -> bool:
    """Whether the node went on, and did not hang up."""
    while True:
        pong = asyncio.ensure_future(phone.all(Pong, 1))
        end = asyncio.ensure_future(phone.client.closed.wait())
        done, _ = await asyncio.wait({pong, end}, return_when=asyncio.FIRST_COMPLETED)
        for each in (pong, end):
            each.cancel()
        await asyncio.gather(pong, end, return_exceptions=True)
        if pong not in done or pong.exception() is not None:
            return False
        found, phone.frames = phone.frames, []
        if any(isinstance(frame, Pong) and frame.n == number for frame in found):
            return True


async def fuzz(nodes: Cluster, seed: int, count: int) -> dict[str, float]:
    """Bad frames to all nodes at once, beside two people who talk through each."""
    chance = random.Random(seed)
    c, (writer, reader) = await enrol_pair(nodes, f"bystanders{seed}")
    pairs = [await enrol_pair(nodes, f"fuzz{seed}x{number}") for number in nodes.nodes]
    before = {n: node.rss_bytes() for n, node in nodes.nodes.items()}
    codes = await asyncio.gather(
        *(
            survive(nodes, n, pair[1][0], bad_payloads(chance, pair[0], pair[1][1][1], count))
            for n, pair in zip(nodes.nodes, pairs, strict=True)
        )
    )
    grown = max(node.rss_bytes() - before[n] for n, node in nodes.nodes.items())
    for cs, number in enumerate(nodes.nodes, 1):
        phone = await connect(nodes, number, *writer)
        told = await phone.say(make_send(c, [reader[1]], cs))
        assert isinstance(told, Ok), told
        assert told.s == cs
        await phone.client.close()
    seen = set().union(*codes)
    assert seen
    assert all(code in PROTOCOL_CLOSES or code == TOO_LARGE_FOR_WEBSOCKET for code in seen)
    return {"payloads": count * len(nodes.nodes), "grown_mib": grown / MEBIBYTE}


def test_row_14_frames_from_hell_end_their_connection_at_most(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        assert (await fuzz(nodes, seed=14, count=60))["grown_mib"] < 32

    run(scenario())


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_row_14_memory_stays_flat_under_thousands_of_bad_frames(
    run: Any, nodes: Cluster, record: Callable[..., None]
) -> None:
    async def scenario() -> None:
        warm = await fuzz(nodes, seed=15, count=1000)
        found = await fuzz(nodes, seed=16, count=2000)
        record(14, warm_grown_mib=warm["grown_mib"], **found)
        assert found["grown_mib"] < 8

    run(scenario())


# --- row 16 ---


def test_row_16_twenty_senders_in_one_conversation_leave_it_dense(
    run: Any, nodes: Cluster
) -> None:
    async def scenario() -> None:
        async with Load(
            nodes, clients=SENDERS, layout=[range(SENDERS)], messages_per_s=60
        ) as load:
            await load.run(3.0)
            assert await load.verdict() == []
            assert len({url for client in load.clients for url in client.urls}) == 3

    run(scenario())


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_row_16_twenty_senders_in_one_conversation_make_300_messages_a_second(
    run: Any, nodes: Cluster, record: Callable[..., None]
) -> None:
    async def scenario() -> None:
        async with Load(
            nodes,
            clients=SENDERS,
            layout=[range(SENDERS)],
            messages_per_s=1.2 * PER_S,
            seed=2,
        ) as load:
            await load.run(2.0)
            since_s = asyncio.get_running_loop().time()
            await load.run(15.0)
            assert await load.verdict() == []
            found = load.figures(since_s)
            record(16, **found)
            assert found["per_s"] >= PER_S

    run(scenario())
