"""The node's own tasks go on after the store was away."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from angarium import node as assembly
from angarium.config import Settings
from angarium.errors import AngariumError, DiskFull, Fenced, Misconfigured, Unavailable
from angarium.node import Node


class GatewayOfTheTest:
    """Opens only after some errors."""

    def __init__(self, *errors: AngariumError) -> None:
        self.errors = list(errors)
        self.opened = asyncio.Event()
        self.closed = 0

    async def open(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.opened.set()

    async def wait_lost(self) -> None:
        await asyncio.Event().wait()

    async def close(self, grace_s: float = 0.0) -> None:
        self.closed += 1


def test_a_gateway_that_cannot_open_for_now_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "RETRY_GATEWAY_S", 0.0)

    async def scenario() -> None:
        gateway: Any = GatewayOfTheTest(
            Unavailable("away"), DiskFull("full"), Fenced("another was faster")
        )
        node = Node(Settings(data=tmp_path), {"gateway"})
        running = asyncio.create_task(node._run_gateway(gateway))
        opened = asyncio.create_task(gateway.opened.wait())
        await asyncio.wait({running, opened}, timeout=10, return_when="FIRST_COMPLETED")
        assert opened.done(), running.exception()
        assert gateway.closed == 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert gateway.closed == 4

    asyncio.run(scenario())


def test_a_gateway_that_can_never_open_ends_the_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        gateway: Any = GatewayOfTheTest(Misconfigured("no agents"))
        node = Node(Settings(data=tmp_path), {"gateway"})
        with pytest.raises(Misconfigured):
            await node._run_gateway(gateway)

    asyncio.run(scenario())
