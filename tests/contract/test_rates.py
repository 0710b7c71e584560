"""One suite for rates that nodes share; then what only Redis does."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from angarium.bus.rates import LocalRates, Rates, Spent
from angarium.bus.redis_link import open_link
from angarium.bus.redis_rates import RedisRates
from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.limits import RATES_DEBT_S_MAX

from .buses import need_redis, served

RATE = 600  # A token each 100 ms.


@dataclass
class Nodes:
    """The rates as two nodes have them; `wait` lets that many seconds pass."""

    a: Rates
    b: Rates
    wait: Callable[[float], Awaitable[None]]


Scenario = Callable[[Nodes], Awaitable[None]]
WithNodes = Callable[[Scenario], None]


def spent(tokens: float, used: float | None = None, key: str = "ann") -> list[Spent]:
    return [Spent(key, tokens, tokens if used is None else used)]


async def on_local(scenario: Scenario) -> None:
    clock, table = ManualClock(), dict[str, float]()

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    a, b = (LocalRates(RATE, clock, table) for _ in "ab")
    await scenario(Nodes(a, b, wait))


async def on_redis(scenario: Scenario, url: str) -> None:
    links = [open_link(url), open_link(url)]
    namespace = f"test-{os.urandom(4).hex()}"
    a, b = (RedisRates(link, "sends", RATE, namespace=namespace) for link in links)
    try:
        await scenario(Nodes(a, b, asyncio.sleep))
    finally:
        for link in links:
            await link.close()


@pytest.fixture(params=["local", "redis"])
def with_nodes(request: pytest.FixtureRequest, tmp_path: Path) -> WithNodes:
    async def run(scenario: Scenario) -> None:
        if request.param == "local":
            await on_local(scenario)
        else:
            async with served(tmp_path) as server:
                await on_redis(scenario, server.url)

    if request.param == "redis":
        need_redis()
    return lambda scenario: asyncio.run(run(scenario))


def test_what_both_nodes_let_through_is_added(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.a.settle(spent(20))
        [used] = await nodes.b.settle(spent(30))

        assert 45 < used <= 50

    with_nodes(scenario)


def test_tokens_come_back_with_time(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.a.settle(spent(5))
        await nodes.wait(0.3)
        [some] = await nodes.b.settle(spent(0))
        assert 0 < some <= 2.1
        await nodes.wait(0.3)

        assert await nodes.b.settle(spent(0)) == [0]

    with_nodes(scenario)


def test_principals_are_counted_apart_and_answered_in_order(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        keys = [f"user-{n}" for n in range(40)]
        asked = [Spent(key, 100 + n, 0) for n, key in enumerate(keys)]
        used = await nodes.a.settle(asked)

        # A second's worth may have come back since.
        assert [round(level - n) for n, level in enumerate(used)] == pytest.approx(
            [100] * 40, abs=10
        )

    with_nodes(scenario)


def test_a_nodes_own_level_restores_what_was_forgotten(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        [used] = await nodes.a.settle(spent(0, used=200))
        assert used == pytest.approx(200)
        [used] = await nodes.b.settle(spent(0, used=10))

        assert 190 < used <= 200

    with_nodes(scenario)


def test_a_debt_is_bounded(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        [used] = await nodes.a.settle(spent(1e6))

        assert used == pytest.approx(RATE + RATES_DEBT_S_MAX * RATE / 60)

    with_nodes(scenario)


def test_without_redis_settling_is_unavailable_in_time_and_works_afterwards(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with served(tmp_path) as server:
            link = open_link(server.url)
            rates = RedisRates(link, "sends", RATE)
            try:
                await rates.settle(spent(1))
                loop = asyncio.get_running_loop()
                server.pause()
                began_s = loop.time()
                with pytest.raises(Unavailable):
                    await rates.settle(spent(1))
                assert loop.time() - began_s < 1.5
                server.resume()
                assert len(await rates.settle([Spent("a", 3, 0), Spent("b", 400, 0)])) == 2
                [a, b] = await rates.settle([Spent("a", 0, 0), Spent("b", 0, 0)])
                assert a < 10 < b, "answers are not of the call that was given up"
                server.kill()
                with pytest.raises(Unavailable):
                    await rates.settle(spent(1))
            finally:
                await link.close()

    asyncio.run(work())


def test_the_server_forgets_buckets_that_are_full(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path) as server:
            link = open_link(server.url)
            try:
                await RedisRates(link, "sends", RATE).settle(spent(1))
                await asyncio.sleep(0.25)
                assert await link.client.dbsize() == 0
            finally:
                await link.close()

    asyncio.run(work())
