"""The node's own tasks go on after the store was away."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from angarium.adapters import agents as adapters
from angarium.adapters.agents import AgentService
from angarium.agents.declared import Declared, Kubernetes
from angarium.agents.registry import Registry
from angarium.agents.warmer import Warmer
from angarium.config import Settings
from angarium.errors import AngariumError, DiskFull, Fenced, Misconfigured, Unavailable
from angarium.ids import UserId


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


class ApiOfTheTest:
    """Keeps nothing of requests."""

    async def sweep(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing runs."""


def service(data: Path, gateway: Any) -> AgentService:
    nothing: Any = None
    made = AgentService(
        settings=Settings(data=data),
        store=nothing,
        clock=nothing,
        sealer=nothing,
        owner="",
        user=UserId("@gateway:angarium"),
        make_endpoint=nothing,
        files=nothing,
        secret=b"",
        guard=nothing,
        operators=nothing,
        trail=nothing,
        base_url="",
    )
    made.gateway = gateway
    api: Any = ApiOfTheTest()
    made.api = api
    nobody_yet = Declared((), discovery=(Kubernetes(),))
    made.warmer = Warmer(Registry(nobody_yet), made.ward)
    return made


def test_a_gateway_that_cannot_open_for_now_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "RETRY_GATEWAY_S", 0.0)

    async def scenario() -> None:
        gateway: Any = GatewayOfTheTest(
            Unavailable("away"), DiskFull("full"), Fenced("another was faster")
        )
        running = asyncio.create_task(service(tmp_path, gateway).run())
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
        with pytest.raises(Misconfigured):
            await service(tmp_path, gateway).run()

    asyncio.run(scenario())
