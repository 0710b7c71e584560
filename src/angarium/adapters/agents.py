"""The agents of a node: loaded as the settings say, their gateway kept open."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from fastapi import APIRouter

from angarium.adapters.agent_api import AgentApi
from angarium.adapters.discovery import open_discovery
from angarium.agents.discovery.kubernetes import KubernetesDiscovery
from angarium.agents.gateway import Gateway, MakeEndpoint
from angarium.agents.handoff import HumanHours, Notice
from angarium.agents.loading import load_declared
from angarium.agents.media import Files
from angarium.agents.overview import overview
from angarium.agents.registry import Registry, Roster, load_registry
from angarium.agents.replies import Disclosure
from angarium.agents.routing.cache import RouteCache
from angarium.agents.routing.make import make_router, make_worker
from angarium.agents.routing.router import Router
from angarium.agents.spend import Caps, Spend
from angarium.agents.ward import Ward
from angarium.agents.warmer import Warmer
from angarium.bus.cache import Cache
from angarium.clock import Clock
from angarium.config import Settings
from angarium.errors import AngariumError, Fenced, StoreUnwritable, Unavailable
from angarium.ids import UserId
from angarium.kms.contract import Sealer
from angarium.limits import AGENT_START_WAIT_S, HOUSEKEEPING_EVERY_S
from angarium.resilience import BreakerPeers
from angarium.sdk.stored import own_device
from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard
from angarium.server.routes_agents import AgentsRoutes
from angarium.server.routes_takeover import TakeoverRoutes
from angarium.storage.contract import Store
from angarium.telemetry.log import get_logger

RETRY_GATEWAY_S = 1.0
log = get_logger("angarium.agents")


class AgentService:
    """Everything of one node that has to do with agents: registry, gateway, HTTP routes.

    `open` before the HTTP server starts, `run` when it serves.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        clock: Clock,
        sealer: Sealer,
        owner: str,
        user: UserId,
        make_endpoint: MakeEndpoint,
        files: Files,
        secret: bytes,
        guard: Guard,
        operators: Guard,
        trail: AuditTrail,
        base_url: str,
        peers: BreakerPeers | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._settings, self._store, self._clock = settings, store, clock
        self._sealer, self._owner, self._user = sealer, owner, user
        self._make_endpoint, self._files = make_endpoint, files
        self._guard, self._base_url = guard, base_url
        self._operators, self._trail = operators, trail
        self._is_open = False
        self._route_cache, self._cache = RouteCache(secret, clock, cache), cache
        self._parts = AsyncExitStack()
        self.ward = Ward(clock, peers)
        self.registry: Registry
        self.warmer: Warmer
        self.discovery: list[KubernetesDiscovery] = []
        self.router: Router
        self.gateway: Gateway
        self.api: AgentApi

    async def open(self) -> list[APIRouter]:
        """Load the agents; returns the routes they add. Raises Misconfigured."""
        settings, store = self._settings, self._store
        self.registry = load_registry(settings.agents, settings.default_agent)
        self.warmer = Warmer(self.registry, self.ward)
        self.discovery = open_discovery(
            self.registry, self._clock, self._sealer, self._cache, os.environ
        )
        for each in self.discovery:
            self._parts.push_async_callback(each.close)
        worker = make_worker(self.registry.declared.routing)
        if worker is not None:
            self._parts.push_async_callback(worker.close)
        self.router = make_router(self.registry, worker, cache=self._route_cache)
        self._parts.push_async_callback(self.router.close)
        caps = Caps(settings.person_day_usd, settings.agent_day_usd)
        device = await own_device(store.vault, self._user)
        self.gateway = Gateway(
            make_endpoint=self._make_endpoint,
            device=device,
            owner=self._owner,
            vault=store.vault,
            turns=store.turns,
            leases=store.leases,
            sealer=self._sealer,
            registry=self.registry,
            clock=self._clock,
            files=self._files,
            ward=self.ward,
            router=self.router,
            embedder=lambda: worker,
            caps=caps,
            disclosure=Disclosure(settings.disclose_to == "everybody", settings.disclosure),
            hours=HumanHours(settings.human_wait_s, settings.human_idle_s),
            tell=self._tell,
        )
        await self.router.open()
        scope = f"gateway/{device}"
        spend = Spend(store.vault, self._sealer, scope, self._clock, caps, self._owner)
        self.api = AgentApi(
            used=spend.used,
            registry=self.registry,
            router=self.router,
            ward=self.ward,
            vault=store.vault,
            sealer=self._sealer,
            clock=self._clock,
            guard=self._guard,
            base_url=self._base_url,
        )
        doors = AgentsRoutes(look=self.look, trail=self._trail, guard=self._operators)
        takeover = TakeoverRoutes(
            operators=self.gateway.operators,
            spend=self.gateway.spend,
            conversations=store.conversations,
            gateway=self._user,
            trail=self._trail,
            guard=self._operators,
        )
        return [*self.api.routers(), doors.router(), takeover.router()]

    async def _sweep_sums(self) -> None:
        """Drop what was spent long ago, now and again, until cancelled."""
        while True:
            try:
                await self.gateway.spend.sweep()
            except AngariumError as error:
                log.warning("spend.sweep_delayed", code=error.code)
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)

    async def _tell(self, notice: Notice) -> None:
        """Operators hear of it in the log and in the audit log; the list of those who wait is
        in the store, so that one line lost is no person lost."""
        log.info(notice.what, conversation=notice.conversation)
        with suppress(AngariumError):
            await self._trail.record(notice.who, notice.what, notice.conversation, "done")

    async def run(self) -> None:
        """Keep the gateway open: again after the store was away, the lease was lost or
        the agents' device ended (displaced, refused). Cancel it to stop."""
        gateway = self.gateway
        beside = [asyncio.create_task(each.run()) for each in self.discovery]
        beside.append(asyncio.create_task(self.api.sweep(), name="kept requests"))
        beside.append(asyncio.create_task(self._sweep_sums(), name="old sums"))
        try:
            # A message that comes before its agent was found would meet another one.
            found = (each.wait_ready(AGENT_START_WAIT_S) for each in self.discovery)
            await asyncio.gather(*found)
            await self.warmer.start()
            while True:
                try:
                    await gateway.open()
                    self._is_open = True
                    await gateway.wait_lost()
                    code = gateway.trouble.code if gateway.trouble else ""
                    log.warning("gateway.lost", code=code, again_after_s=RETRY_GATEWAY_S)
                except (Unavailable, StoreUnwritable, Fenced) as error:
                    log.warning("gateway.delayed", code=error.code)
                self._is_open = False
                await gateway.close()
                await asyncio.sleep(RETRY_GATEWAY_S)
        finally:
            self._is_open = False
            try:
                await self.api.close()
                await gateway.close(grace_s=5.0)
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                await self.warmer.close()

    async def close(self) -> None:
        """End what `open` began, after `run` has ended."""
        await self._parts.aclose()

    def look(self) -> dict[str, Any]:
        """What operators see of the agents here."""
        return overview(self.registry, self.warmer.warmth(), self.ward, self.discovery)

    def figures(self) -> dict[str, int]:
        """Of all discovery together; empty without any."""
        total: Counter[str] = Counter()
        for each in self.discovery:
            total.update(each.figures())
        return dict(total)

    def reload(self) -> Roster:
        """Load the declared agents anew; turns that run end on the old ones. Routing's model
        and discovery stay as they began. Raises Misconfigured; then nothing has changed."""
        settings = self._settings
        self.registry.declare(load_declared(settings.agents), settings.default_agent)
        return self.registry.roster

    def check(self, may_stand_by: Callable[[Gateway], bool]) -> Callable[[], Awaitable[None]]:
        """A check of its health: it works, or stands by where that is enough."""

        async def check() -> None:
            if not (self._is_open or may_stand_by(self.gateway)):
                raise Unavailable("the agents' device is not connected yet")

        return check
