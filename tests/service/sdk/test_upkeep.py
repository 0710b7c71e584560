"""Keys are looked after again once the server can be written to again."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from angarium.errors import AngariumError, DiskFull, Unavailable
from angarium.sdk import endpoint as under_test
from angarium.sdk.endpoint import DeviceEndpoint


def test_upkeep_outlives_a_server_that_is_away_or_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "UPKEEP_RETRY_S", 0.0)

    async def scenario() -> None:
        errors: list[AngariumError] = [Unavailable("away"), DiskFull("full")]
        done = asyncio.Event()

        async def top_up() -> None:
            if errors:
                raise errors.pop(0)
            done.set()

        endpoint: Any = object.__new__(DeviceEndpoint)
        endpoint._desk = SimpleNamespace(keyring=SimpleNamespace(top_up=top_up))
        upkeep = asyncio.create_task(DeviceEndpoint._upkeep(endpoint))
        waiting = asyncio.create_task(done.wait())
        await asyncio.wait({upkeep, waiting}, timeout=10, return_when="FIRST_COMPLETED")
        assert waiting.done(), upkeep.exception()
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)

    asyncio.run(scenario())
