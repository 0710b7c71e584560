"""One suite for caches; then what only Redis does."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from angarium.bus.cache import Cache, LocalCache
from angarium.bus.redis_cache import RedisCache
from angarium.bus.redis_link import open_link
from angarium.clock import ManualClock, SystemClock
from angarium.limits import CACHE_VALUE_BYTES_MAX
from angarium.testing.redis_server import RedisServer

from .buses import need_redis, served

KEY, OTHER = os.urandom(32), os.urandom(32)


@dataclass
class Caches:
    """The cache as two parts of the product have it."""

    a: Cache
    b: Cache
    wait: Callable[[float], Awaitable[None]]


Scenario = Callable[[Caches], Awaitable[None]]
WithCaches = Callable[[Scenario], None]


async def on_local(scenario: Scenario) -> None:
    clock = ManualClock()

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    cache = LocalCache(clock)
    await scenario(Caches(cache, cache, wait))


async def on_redis(scenario: Scenario, url: str) -> None:
    links = [open_link(url), open_link(url)]
    a, b = (RedisCache(link, SystemClock()) for link in links)
    try:
        await scenario(Caches(a, b, asyncio.sleep))
    finally:
        for link in links:
            await link.close()


@pytest.fixture(params=["local", "redis"])
def with_caches(request: pytest.FixtureRequest, tmp_path: Path) -> WithCaches:
    async def run(scenario: Scenario) -> None:
        if request.param == "local":
            await on_local(scenario)
        else:
            async with served(tmp_path) as server:
                await on_redis(scenario, server.url)

    if request.param == "redis":
        need_redis()
    return lambda scenario: asyncio.run(run(scenario))


def test_what_one_puts_the_other_gets(with_caches: WithCaches) -> None:
    async def scenario(caches: Caches) -> None:
        await caches.a.put(KEY, b"orders", 60)

        assert await caches.b.get(KEY) == b"orders"
        assert await caches.b.get(OTHER) is None

    with_caches(scenario)


def test_the_last_value_counts(with_caches: WithCaches) -> None:
    async def scenario(caches: Caches) -> None:
        await caches.a.put(KEY, b"orders", 60)
        await caches.b.put(KEY, b"billing", 60)

        assert await caches.a.get(KEY) == b"billing"

    with_caches(scenario)


def test_a_value_is_forgotten_in_its_time(with_caches: WithCaches) -> None:
    async def scenario(caches: Caches) -> None:
        await caches.a.put(KEY, b"orders", 0.05)
        await caches.a.put(OTHER, b"orders", 60)
        await caches.wait(0.1)

        assert await caches.b.get(KEY) is None
        assert await caches.b.get(OTHER) == b"orders"

    with_caches(scenario)


def test_too_large_a_value_is_not_kept_and_not_the_one_before_it(
    with_caches: WithCaches,
) -> None:
    async def scenario(caches: Caches) -> None:
        await caches.a.put(KEY, b"orders", 60)
        await caches.a.put(KEY, bytes(CACHE_VALUE_BYTES_MAX + 1), 60)

        assert await caches.b.get(KEY) is None

    with_caches(scenario)


def test_the_one_used_longest_ago_goes() -> None:
    async def scenario() -> None:
        cache = LocalCache(ManualClock(), entries_max=2)
        for key in (b"1", b"2"):
            await cache.put(key, key, 60)
        await cache.get(b"1")
        await cache.put(b"3", b"3", 60)

        assert [await cache.get(key) for key in (b"1", b"2", b"3")] == [b"1", None, b"3"]

    asyncio.run(scenario())


def with_server(
    tmp_path: Path, scenario: Callable[[RedisCache, RedisServer], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with served(tmp_path) as server:
            link = open_link(server.url)
            try:
                await scenario(RedisCache(link, SystemClock()), server)
            finally:
                await link.close()

    need_redis()
    asyncio.run(run())


def test_an_emptied_server_is_a_miss(tmp_path: Path) -> None:
    async def scenario(cache: RedisCache, server: RedisServer) -> None:
        await cache.put(KEY, b"orders", 60)
        link = open_link(server.url)
        await link.client.flushall()
        await link.close()

        assert await cache.get(KEY) is None
        assert cache.figures() == {"hits": 0, "misses": 1, "failures": 0}

    with_server(tmp_path, scenario)


def test_a_dead_server_is_a_miss_and_is_left_alone_for_a_while(tmp_path: Path) -> None:
    async def scenario(cache: RedisCache, server: RedisServer) -> None:
        await cache.put(KEY, b"orders", 60)
        server.kill()

        assert [await cache.get(KEY) for _ in range(3)] == [None, None, None]
        await cache.put(KEY, b"orders", 60)
        assert cache.figures()["failures"] == 1

    with_server(tmp_path, scenario)
