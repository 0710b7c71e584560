"""What one node found, another has when it starts: over every cache, and without one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from angarium.agents.discovery.found import Found, FoundSkill, Spot
from angarium.agents.discovery.shared import SharedSnapshot, version_of
from angarium.bus.cache import Cache, LocalCache
from angarium.bus.redis_cache import RedisCache
from angarium.bus.redis_link import open_link
from angarium.clock import SystemClock
from angarium.limits import CACHE_VALUE_BYTES_MAX
from angarium.testing.fakes import FixedKeySealer

from .buses import need_redis, served


def agents(count: int, seed: int) -> list[Found]:
    """Agents whose words do not pack well."""
    return [
        Found(
            f"a{number}",
            "cloudevents",
            f"agents/a{number}",
            skills=(FoundSkill("s", (f"{hash((seed, number)):x}" * 20,)),),
            spots=(Spot(f"http://10.0.{number // 256}.{number % 256}:80"),),
        )
        for number in range(count)
    ]


def shared(cache: Cache) -> SharedSnapshot:
    return SharedSnapshot(cache, FixedKeySealer(), SystemClock(), "kubernetes 1")


async def exchange(one: Cache, other: Cache) -> None:
    for count in (3, 5000, 1, 0):
        found = agents(count, count)
        await shared(one).store(found)

        known = await shared(other).load()

        assert known is not None
        assert list(known.found) == found
        assert known.version == version_of(found)


@pytest.mark.parametrize("kind", ["local", "redis"])
def test_the_last_snapshot_counts_however_large_the_ones_before(
    kind: str, tmp_path: Path
) -> None:
    async def on_redis() -> None:
        async with served(tmp_path) as server:
            links = [open_link(server.url), open_link(server.url)]
            try:
                await exchange(*(RedisCache(link, SystemClock()) for link in links))
            finally:
                for link in links:
                    await link.close()

    async def on_local() -> None:
        cache = LocalCache(SystemClock())
        await exchange(cache, cache)

    if kind == "redis":
        need_redis()
    run: Callable[[], object] = {"redis": on_redis, "local": on_local}[kind]
    asyncio.run(run())  # type: ignore[arg-type]


def test_five_thousand_agents_take_more_than_one_piece() -> None:
    async def scenario() -> None:
        cache = LocalCache(SystemClock())
        await shared(cache).store(agents(5000, 1))
        assert len(cache._entries) > 1
        assert all(len(value) <= CACHE_VALUE_BYTES_MAX for _, value in cache._entries.values())

    asyncio.run(scenario())


def test_without_redis_there_is_none_and_nobody_waits_long() -> None:
    async def scenario() -> None:
        link = open_link("redis://127.0.0.1:1")
        try:
            async with asyncio.timeout(10):
                snapshot = shared(RedisCache(link, SystemClock()))
                await snapshot.store(agents(1, 1))
                assert await snapshot.load() is None
        finally:
            await link.close()

    asyncio.run(scenario())
