"""Every adapter of the storage contract, so that one suite tests them all.

A new adapter is one more line in ADAPTERS: a function that opens it in an empty folder.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import open_sqlite

ADAPTERS: dict[str, Callable[[Path, ManualClock], Awaitable[Any]]] = {
    "sqlite-file": lambda folder, clock: open_sqlite(folder, clock),
    "sqlite-file-inline": lambda folder, clock: open_sqlite(folder, clock, inline=True),
    "sqlite-memory": lambda _, clock: open_sqlite(None, clock),
    "sqlite-memory-inline": lambda _, clock: open_sqlite(None, clock, inline=True),
}


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

    async def run(scenario: Scenario) -> None:
        clock = ManualClock()
        async with AsyncExitStack() as stack:
            first = await ADAPTERS[request.param](tmp_path / "store", clock)
            stack.push_async_callback(first.close)
            second = await first.second()
            stack.push_async_callback(second.close)
            await scenario(Opened(first.store, second.store, clock))

    return lambda scenario: asyncio.run(run(scenario))
