"""Every adapter of the storage contract, so that one suite tests them all.

A new adapter is one more line in ADAPTERS: a function that opens it in an empty place. That is
a folder, unless PLACES names a fixture that gives another one.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import open_sqlite


async def open_fresh_mongo(uri: str, clock: ManualClock, **options: Any) -> Any:
    """A store over a database of its own, which is dropped when the store is closed."""
    from angarium.storage.mongo.store import open_mongo

    opened = await open_mongo(uri, clock, database=f"t_{uuid.uuid4().hex}", **options)
    close = opened.close

    async def drop_and_close() -> None:
        await opened._link.client.drop_database(opened._link.name)
        await close()

    opened.close = drop_and_close  # type: ignore[method-assign]
    return opened


ADAPTERS: dict[str, Callable[[Any, ManualClock], Awaitable[Any]]] = {
    "mongo": open_fresh_mongo,
    "sqlite-file": lambda folder, clock: open_sqlite(folder, clock),
    "sqlite-file-inline": lambda folder, clock: open_sqlite(folder, clock, inline=True),
    "sqlite-memory": lambda _, clock: open_sqlite(None, clock),
    "sqlite-memory-inline": lambda _, clock: open_sqlite(None, clock, inline=True),
}
PLACES = {"mongo": "mongo_uri"}


@pytest.fixture
def fresh_mongo() -> Callable[..., Awaitable[Any]]:
    return open_fresh_mongo


@dataclass
class Opened:
    """A fresh store, its clock, and another node's store over the same data."""

    store: Store
    other: Store
    clock: ManualClock


Scenario = Callable[[Opened], Awaitable[None]]


@pytest.fixture(params=sorted(ADAPTERS))
def with_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario over a fresh store."""
    name = PLACES.get(request.param)
    place = request.getfixturevalue(name) if name else tmp_path / "store"

    async def run(scenario: Scenario) -> None:
        clock = ManualClock()
        async with AsyncExitStack() as stack:
            first = await ADAPTERS[request.param](place, clock)
            stack.push_async_callback(first.close)
            second = await first.second()
            stack.push_async_callback(second.close)
            await scenario(Opened(first.store, second.store, clock))

    return lambda scenario: asyncio.run(run(scenario))
