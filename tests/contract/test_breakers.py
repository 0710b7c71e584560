"""Breakers of two nodes open and close together; one suite for both ways to share them."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from angarium.bus.redis_breakers import RedisBreakers
from angarium.bus.redis_link import RedisLink, open_link
from angarium.clock import ManualClock, SystemClock
from angarium.errors import Unavailable
from angarium.limits import BREAKERS_LOOK_S
from angarium.resilience import (
    BREAKER_CALLS_MIN,
    BREAKER_OPEN_S,
    Breaker,
    BreakerTable,
    LocalBreakers,
)
from angarium.testing.redis_server import RedisServer

from .buses import need_redis, served, until

NAME = "twilio"


@dataclass
class Nodes:
    """One breaker at two nodes; `lapse` ends the time that it stays open."""

    a: Breaker
    b: Breaker
    lapse: Callable[[], Awaitable[None]]


Scenario = Callable[[Nodes], Awaitable[None]]
WithNodes = Callable[[Scenario], None]


async def fails() -> str:
    raise TimeoutError


async def works() -> str:
    return "answer"


async def open_it(breaker: Breaker) -> None:
    for _ in range(BREAKER_CALLS_MIN):
        with pytest.raises(TimeoutError):
            await breaker.call(fails)
    assert breaker.is_open


async def refused(breaker: Breaker) -> float:
    """How long it asks to wait."""
    with pytest.raises(Unavailable) as unavailable:
        await breaker.call(works)
    return unavailable.value.after_ms / 1000


async def on_local(scenario: Scenario) -> None:
    clock, table = ManualClock(), BreakerTable()
    a, b = (Breaker(NAME, clock, LocalBreakers(clock, table)) for _ in "ab")

    async def lapse() -> None:
        clock.advance(BREAKER_OPEN_S)

    await scenario(Nodes(a, b, lapse))


class OnRedis:
    """Two nodes on one server, each with a clock that can be moved on."""

    def __init__(self, url: str) -> None:
        self.namespace = f"test-{os.urandom(4).hex()}"
        self.link: RedisLink = open_link(url)
        self.links = [open_link(url), open_link(url)]
        self.clock = ManualClock()
        self.peers = [
            RedisBreakers(link, node, self.clock, namespace=self.namespace)
            for link, node in zip(self.links, "ab", strict=True)
        ]
        self.a, self.b = (Breaker(NAME, self.clock, each) for each in self.peers)

    async def __aenter__(self) -> "OnRedis":
        for each in self.peers:
            await each.start()
        return self

    async def __aexit__(self, *ended: object) -> None:
        for each in self.peers:
            await each.close()
            await each.close()
        for link in (self.link, *self.links):
            await link.close()

    async def lapse(self) -> None:
        """As if the time had passed, at the nodes and at the server."""
        key = f"{self.namespace}:breakers"
        held = (await self.link.client.hget(key, NAME) or b"").decode().split("|")
        if len(held) > 1 and held[1] != "-1":
            held[1] = str(int(held[1]) - round(BREAKER_OPEN_S * 1000))
            await self.link.client.hset(key, NAME, "|".join(held))
        self.clock.advance(BREAKER_OPEN_S)


@pytest.fixture(params=["local", "redis"])
def with_nodes(request: pytest.FixtureRequest, tmp_path: Path) -> WithNodes:
    async def run(scenario: Scenario) -> None:
        if request.param == "local":
            await on_local(scenario)
        else:
            async with served(tmp_path) as server, OnRedis(server.url) as two:
                await scenario(Nodes(two.a, two.b, two.lapse))

    if request.param == "redis":
        need_redis()
    return lambda scenario: asyncio.run(run(scenario))


def test_what_opened_at_one_node_is_open_at_the_other(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        await open_it(nodes.a)
        await until(lambda: nodes.b.is_open)

        assert 0 < await refused(nodes.b) <= BREAKER_OPEN_S

    with_nodes(scenario)


def test_one_probe_of_all_nodes_is_made_and_its_success_closes_both(
    with_nodes: WithNodes,
) -> None:
    async def scenario(nodes: Nodes) -> None:
        await open_it(nodes.a)
        await until(lambda: nodes.b.is_open)
        await nodes.lapse()
        go, asked = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            asked.set()
            await go.wait()
            return "answer"

        probe = asyncio.create_task(nodes.b.call(slow))
        await asked.wait()
        assert 0 < await refused(nodes.a) <= 1
        go.set()
        assert await probe == "answer"
        await until(lambda: not nodes.a.is_open)
        assert await nodes.a.call(works) == await nodes.b.call(works)

    with_nodes(scenario)


def test_a_failed_probe_keeps_both_open(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        await open_it(nodes.a)
        await until(lambda: nodes.b.is_open)
        await nodes.lapse()
        with pytest.raises(TimeoutError):
            await nodes.b.call(fails)
        # Also before this node has looked again.
        await until_refused_for(nodes.a, 5.0)
        await until_refused_for(nodes.b, 5.0)

    with_nodes(scenario)


async def until_refused_for(breaker: Breaker, seconds: float) -> None:
    """Each answer meanwhile is a refusal, never another probe."""
    async with asyncio.timeout(10):
        while await refused(breaker) < seconds:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


def test_a_cancelled_probe_lets_the_other_node_probe(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        await open_it(nodes.a)
        await until(lambda: nodes.b.is_open)
        await nodes.lapse()
        asked = asyncio.Event()

        async def never() -> str:
            asked.set()
            await asyncio.Event().wait()
            return ""

        probe = asyncio.create_task(nodes.a.call(never))
        await asked.wait()
        await refused(nodes.b)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        answer = ""
        async with asyncio.timeout(10):
            while not answer:
                try:
                    answer = await nodes.b.call(works)
                except Unavailable:
                    await asyncio.sleep(0.01)

    with_nodes(scenario)


def test_it_may_open_again_after_it_closed(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        for _ in range(3):
            await open_it(nodes.a)
            await until(lambda: nodes.b.is_open)
            await nodes.lapse()
            assert await nodes.a.call(works) == "answer"
            await until(lambda: not nodes.b.is_open)

    with_nodes(scenario)


# --- what only Redis can lose ----------------------------------------------------------------

RedisScenario = Callable[[RedisServer, OnRedis], Awaitable[None]]


def on_redis(folder: Path, scenario: RedisScenario) -> None:
    async def work() -> None:
        async with served(folder) as server, OnRedis(server.url) as two:
            await scenario(server, two)

    asyncio.run(work())


def test_another_node_knows_within_a_second(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await open_it(two.a)
        async with asyncio.timeout(BREAKERS_LOOK_S + 0.5):
            await until(lambda: two.b.is_open)

    on_redis(tmp_path, scenario)


def test_without_redis_each_node_goes_by_itself_and_nobody_waits_long(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        server.pause()
        await open_it(two.a)
        assert await two.b.call(works) == "answer"
        two.clock.advance(BREAKER_OPEN_S)
        clock = SystemClock()
        began_s = clock.monotonic_s()
        assert await two.a.call(works) == "answer"
        assert clock.monotonic_s() - began_s < 2.5
        assert not two.a.is_open
        server.resume()

    on_redis(tmp_path, scenario)


def test_what_opened_while_redis_was_away_is_told_afterwards(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        server.kill()
        await open_it(two.a)
        await until(lambda: two.peers[0].figures()["shared"] == 0)
        assert not two.b.is_open
        await server.start()
        await until(lambda: two.b.is_open)

    on_redis(tmp_path, scenario)


def test_what_closed_while_redis_was_away_is_told_afterwards(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await open_it(two.a)
        await until(lambda: two.b.is_open)
        server.pause()
        two.clock.advance(BREAKER_OPEN_S)
        assert await two.a.call(works) == "answer"
        await until(lambda: two.peers[0].figures()["failures"] > 1)
        server.resume()
        await until(lambda: not two.b.is_open)

    on_redis(tmp_path, scenario)


def test_a_node_that_did_not_hear_that_it_closed_makes_no_probe(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await open_it(two.a)
        await until(lambda: two.b.is_open)
        await two.lapse()
        await two.peers[1].close()  # It looks no more.
        assert await two.a.call(works) == "answer"
        await until(lambda: not two.peers[0]._unsaid)
        with pytest.raises(TimeoutError):
            await two.b.call(fails)

        assert not two.b.is_open, "a failed probe would have opened it again"

    on_redis(tmp_path, scenario)


def test_what_opened_before_a_probe_is_not_told_after_it(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await two.peers[0].close()  # It tells nobody meanwhile.
        await open_it(two.a)
        two.clock.advance(BREAKER_OPEN_S)
        go, asked = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            asked.set()
            await go.wait()
            return "answer"

        probe = asyncio.create_task(two.a.call(slow))
        await asked.wait()
        await two.peers[0].start()
        await until(lambda: two.b.is_open)
        await refused(two.b)
        go.set()
        assert await probe == "answer"

    on_redis(tmp_path, scenario)


def test_after_flushall_an_open_breaker_stays_open_and_can_be_closed(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await open_it(two.a)
        await until(lambda: two.b.is_open)
        await two.link.client.flushall()
        key = f"{two.namespace}:breakers"
        while not await two.link.client.hlen(key):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
        assert two.a.is_open
        assert two.b.is_open
        await two.lapse()
        assert await two.b.call(works) == "answer"
        await until(lambda: not two.a.is_open)

    on_redis(tmp_path, scenario)


def test_a_node_that_starts_late_learns_what_is_open(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await open_it(two.a)
        await until(lambda: two.b.is_open)
        peers = RedisBreakers(two.link, "c", two.clock, namespace=two.namespace)
        late = Breaker(NAME, two.clock, peers)
        await peers.start()
        await until(lambda: late.is_open)
        await peers.close()

    on_redis(tmp_path, scenario)


def test_the_probe_of_a_node_that_died_is_forgotten_in_time(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, two: OnRedis) -> None:
        await open_it(two.a)
        await until(lambda: two.b.is_open)
        await two.lapse()
        assert await two.peers[0].probe(NAME) == 0
        assert 0 < await two.peers[1].probe(NAME) <= 1
        key = f"{two.namespace}:breakers"
        held = (await two.link.client.hget(key, NAME)).decode().split("|")
        left_s = (int(held[2]) - int(held[1])) / 1000
        assert 20 < left_s < 60
        held[2] = str(int(held[1]) + 1)  # As if that time had passed.
        await two.link.client.hset(key, NAME, "|".join(held))

        assert await two.peers[1].probe(NAME) == 0

    on_redis(tmp_path, scenario)
