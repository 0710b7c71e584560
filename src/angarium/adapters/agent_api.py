"""The HTTP doors to a node's agents: who answers there, and what is kept of it."""

import asyncio
from importlib.metadata import version

from fastapi import APIRouter

from angarium.agents.direct import DirectRunner, Used, use_freely
from angarium.agents.registry import Registry
from angarium.agents.requests import API_CHANNEL, Requests
from angarium.agents.routing.router import Router
from angarium.agents.routing.rules import Facts, ToAgent
from angarium.agents.shelf import Shelf
from angarium.agents.ward import Ward
from angarium.clock import Clock
from angarium.errors import AngariumError
from angarium.kms.contract import Sealer
from angarium.limits import HOUSEKEEPING_EVERY_S
from angarium.server.a2a_kept import sweep as sweep_tasks
from angarium.server.guard import Guard
from angarium.server.routes_a2a import A2ARoutes, a2a_is_installed
from angarium.server.routes_openai import OpenAIRoutes
from angarium.storage.contract import Vault
from angarium.telemetry.log import get_logger

log = get_logger("angarium.agents")


class AgentApi:
    """Requests to agents over HTTP. Run `sweep` beside the server."""

    def __init__(
        self,
        *,
        registry: Registry,
        router: Router,
        ward: Ward,
        vault: Vault,
        sealer: Sealer,
        clock: Clock,
        guard: Guard,
        base_url: str,
        used: Used = use_freely,
    ) -> None:
        self._registry, self._router, self._clock = registry, router, clock
        self._guard, self._shelf = guard, Shelf(vault, sealer, clock)
        self.runner = DirectRunner(registry, ward, clock, used=used, other=self._other)
        self._vault = vault
        self._a2a: A2ARoutes | None = None
        if a2a_is_installed():
            self._a2a = A2ARoutes(
                registry=registry,
                runner=self.runner,
                vault=vault,
                sealer=sealer,
                clock=clock,
                guard=guard,
                base_url=base_url,
                version=version("angarium"),
            )

    def routers(self) -> list[APIRouter]:
        requests = Requests(self._registry, self.runner, self._shelf, self._clock, self._choose)
        openai = OpenAIRoutes(
            requests=requests, registry=self._registry, clock=self._clock, guard=self._guard
        )
        a2a = self._a2a.routers() if self._a2a is not None else []
        return [openai.router(), *a2a]

    async def close(self) -> None:
        """End the tasks that run; before the server stops, which their streams would hold."""
        if self._a2a is not None:
            await self._a2a.close()

    async def sweep(self) -> None:
        """Drop kept requests and tasks whose time is over, now and again, until cancelled."""
        while True:
            try:
                await self._shelf.sweep()
                await sweep_tasks(self._vault, self._clock)
            except AngariumError as error:
                log.warning("requests.sweep_delayed", code=error.code)
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)

    async def _choose(self, text: str, sticky: str) -> str:
        """Who answers a request that names no agent; nobody: an empty name."""
        facts = Facts(sticky=sticky, channel=API_CHANNEL)
        decision = await self._router.decide(text, facts)
        if isinstance(decision, ToAgent):
            return decision.agent
        return (await self._router.again(text, facts)).agent

    async def _other(self, text: str, declined: tuple[str, ...]) -> str:
        """Who answers what these have declined."""
        facts = Facts(channel=API_CHANNEL, declined=declined)
        return (await self._router.again(text, facts)).agent
