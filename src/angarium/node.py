"""Assembly: settings in, a running node out. `adapters.py` opens what the settings name.

`start` brings parts up from the ground; `drain` moves connections away; `stop` takes the parts
down in the opposite order. Each part may use those that came up before it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version

import httpx2
from fastapi import APIRouter

from angarium.adapters.agents import AgentService
from angarium.adapters.channel import open_channel
from angarium.adapters.store import open_store
from angarium.adapters.wire import Figures
from angarium.adapters.wires import open_wire
from angarium.agents.gateway import Gateway
from angarium.agents.media import Files
from angarium.bridge.bridge import Bridge
from angarium.bridge.contacts import Contacts, mark_key
from angarium.bridge.policy import Policy
from angarium.clock import Clock, SystemClock
from angarium.config import Settings
from angarium.e2ee.attachments import SealedFile
from angarium.e2ee.body import FileRef
from angarium.errors import (
    AngariumError,
    Misconfigured,
    Unavailable,
)
from angarium.ids import ConversationId, UserId, check_user_id
from angarium.keys.directory import Keys
from angarium.kms.local import open_kms
from angarium.kms.sealer import DataKeySealer
from angarium.limits import (
    API_REQUESTS_PER_MINUTE,
    DEAD_TURNS_KEPT_S,
    DEAD_TURNS_MAX,
    EVENTS_PER_S,
    EVENTS_PER_S_SERVICE,
    HOUSEKEEPING_EVERY_S,
    WEBHOOK_KEPT_S,
)
from angarium.messaging.service import Messaging
from angarium.sdk import attachments
from angarium.sdk.api import HttpApi, Token
from angarium.sdk.contract import Endpoint, Sink
from angarium.sdk.stored import StoredEndpoint, kept_sealer
from angarium.sdk.transport import PicowsConnector
from angarium.server.api import ApiParts, WellKnown, api_routers, make_app
from angarium.server.audit import AuditTrail
from angarium.server.auth import Tokens, load_or_make_secret
from angarium.server.guard import Guard
from angarium.server.health import Health
from angarium.server.http import HttpServer, free_port
from angarium.server.limiter import Limiter
from angarium.server.ownership import Ownership
from angarium.server.roles import Roles
from angarium.server.webhooks import webhook_router
from angarium.server.websocket import WebSocketServer
from angarium.storage.contract import Fence
from angarium.telemetry.log import get_logger
from angarium.telemetry.loop_watch import LoopWatch
from angarium.telemetry.metrics import Metrics

SERVICE_TOKEN_TTL_S = 3600.0
TELL_WAITING_EVERY_S = 3.0
log = get_logger("angarium.node")


class Node:
    """One process of the product, with the services named: messaging, gateway, bridge."""

    def __init__(self, settings: Settings, services: set[str]) -> None:
        self.settings, self.services = settings, services
        self.clock: Clock = SystemClock()
        self.metrics = Metrics()
        self.gateway_user = check_user_id(f"@gateway:{settings.domain}")
        self.owner = ""
        self.http_url = self.websocket_url = ""
        self.health = Health({})
        self.messaging: Messaging | None = None
        self._turn_away: Callable[[], None] = lambda: None
        self.agents: AgentService | None = None
        self.bridge: Bridge | None = None
        self._parts = AsyncExitStack()
        self._work: set[asyncio.Task[None]] = set()

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring every part up. Raises Misconfigured and its kinds; nothing stays open then."""
        try:
            self._check_services()
            await self._start_ground()
            routers = []
            if "messaging" in self.services:
                routers += await self._start_messaging()
            if "bridge" in self.services:
                routers.append(await self._make_bridge())
            if "gateway" in self.services:
                routers += await self._open_agents()
            await self._start_http(routers)
            if self.agents is not None:
                self._own(self.agents.run())
            if self.bridge is not None:
                self._own(self.bridge.run())
            self._own(self._keep_house())
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def drain(self) -> None:
        """Not ready; running turns finish; the balancer notices; connections move away."""
        self.health.drain()
        await self._end_work()  # Our own devices first: this node is where they would go.
        if self.messaging is not None:
            log.info("node.draining", connections=self.messaging.connections)
            await asyncio.sleep(self.settings.drain_wait_s)
            self._turn_away()
            await self.messaging.drain(self.settings.drain_grace_s)

    async def stop(self) -> None:
        """Take the parts down, the last one first."""
        await self._end_work()
        await self._parts.aclose()

    async def _end_work(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def _check_services(self) -> None:
        urls = self.settings.relay_url and self.settings.relay_websocket_url
        if "messaging" not in self.services and not urls:
            raise Misconfigured(
                "without messaging in this process, say where it runs: "
                "set relay_url and relay_websocket_url"
            )

    # --- ground -------------------------------------------------------------------------------

    async def _start_ground(self) -> None:
        settings = self.settings
        ownership = Ownership(settings.data, self.services)
        self._parts.callback(ownership.close)
        watch = LoopWatch(_tell_blocked)
        watch.start()
        self._parts.callback(watch.stop)
        self._gauges("loop", "Of the event loop.", lambda: {"blocked": watch.blocked})
        self.owner = ownership.name
        opened = await open_store(settings, self.clock)
        self._parts.push_async_callback(opened.close)
        self.clock = opened.clock
        await opened.check()  # A full disk is told now, not by never becoming ready.
        self.store = opened.store
        self.kms = open_kms(settings.kms_url, settings.data)
        secret = settings.token_secret.get_secret_value().encode()
        self.secret = secret or load_or_make_secret(settings.data)
        self.tokens = Tokens(self.secret, self.clock)
        lost = (lambda nodes: self._recheck()) if "messaging" in self.services else None
        wire = await open_wire(settings, self.owner, opened.cluster, self.clock, lost)
        self.wire = wire
        self._parts.push_async_callback(wire.close)
        per_minute = settings.rate_per_minute
        refused = self.metrics.counter("rate_limited_total", "Requests refused.").add
        limiter = Limiter(per_minute, self.clock, refused=refused)
        self.limiter = await wire.shared("sends", limiter, per_minute)
        self._checks: dict[str, Callable[[], Awaitable[None]]] = {"store": opened.check}
        self._gauges("store", "Of the store.", opened.figures)

    def _gauges(self, part: str, about: str, read: Figures) -> None:
        for name in read():
            self.metrics.gauge(f"{part}_{name}", about, partial(_one, read, name))

    async def _sealer(self, scope: str) -> DataKeySealer:
        return await kept_sealer(self.store.vault, self.kms, scope)

    # --- messaging ----------------------------------------------------------------------------

    async def _start_messaging(self) -> list[APIRouter]:
        settings, store, wire = self.settings, self.store, self.wire
        websocket = WebSocketServer(host=settings.host, port=settings.websocket_port)
        self.messaging = Messaging(
            engine=websocket,
            log=store.log,
            conversations=store.conversations,
            receipts=store.receipts,
            directory=store.directory,
            bus=wire.bus,
            clock=self.clock,
            authenticate=self.tokens.authenticate,
            limiter=self._limit,
            event_rate=self._event_rate,
            node_id=self.owner[:8],
            registry=wire.registry,
            presence=wire.presence,
            bus_hears=wire.hears,
        )
        lease = asyncio.create_task(wire.keep_lease(), name="node lease")
        self._parts.push_async_callback(_end, lease)
        await self.messaging.start()
        self._parts.push_async_callback(self.messaging.stop)
        await websocket.start()
        self._turn_away = websocket.turn_away
        self._checks["websocket"] = websocket.check
        self._gauges("messaging", "Of the messaging service.", self.messaging.figures.numbers)
        self._parts.push_async_callback(websocket.stop)
        self.websocket_url = settings.public_websocket_url or (
            f"ws://{settings.host}:{websocket.port}/ws"
        )
        roles = Roles(self.gateway_user)
        api_limiter = Limiter(API_REQUESTS_PER_MINUTE, self.clock)
        parts = ApiParts(
            store=store,
            keys=Keys(directory=store.directory, bus=wire.bus, clock=self.clock),
            bus=wire.bus,
            clock=self.clock,
            tokens=self.tokens,
            audit=AuditTrail(audit=store.audit, clock=self.clock, secret=self.secret),
            roles=roles,
            limiter=await wire.shared("api", api_limiter, API_REQUESTS_PER_MINUTE),
            well_known=WellKnown(self.websocket_url, self.gateway_user, version("angarium")),
        )
        return api_routers(parts)

    def _recheck(self) -> None:
        """A node was lost, and with it perhaps what it was about to tell."""
        if self.messaging is not None:
            self.messaging.recheck()

    def _may_stand_by(self, part: Gateway | Bridge | None) -> bool:
        """On a shared store another node does the work, and this one is ready to take over."""
        shared = bool(self.settings.store_url.get_secret_value())
        return shared and part is not None and part.standby

    def _limit(self, user: UserId) -> float:
        """The product's own devices are limited where their messages come in."""
        return 0.0 if self._is_own(user) else self.limiter.check(user)

    def _event_rate(self, user: UserId) -> float:
        return EVENTS_PER_S_SERVICE if self._is_own(user) else EVENTS_PER_S

    def _is_own(self, user: UserId) -> bool:
        return user == self.gateway_user or user.startswith("@wa_")

    # --- doors --------------------------------------------------------------------------------

    async def _start_http(self, routers: list[APIRouter]) -> None:
        settings = self.settings
        self.health = Health(self._checks)
        for part, figures in self.wire.figures().items():
            self._gauges(part, "Of what nodes share.", figures)
        app = make_app(
            version=version("angarium"),
            health=self.health,
            metrics=self.metrics,
            routers=routers,
            https=settings.public_base_url.startswith("https"),
        )
        server = HttpServer(app, settings.host, self._http_port())
        await server.start()
        self._parts.push_async_callback(server.stop)

    def _http_port(self) -> int:
        if not self.http_url:
            port = self.settings.port or free_port(self.settings.host)
            self.http_url = f"http://{self.settings.host}:{port}"
        return int(self.http_url.rpartition(":")[2])

    # --- devices of our own -------------------------------------------------------------------

    def _relay_websocket_url(self) -> str:
        return self.settings.relay_websocket_url or self.websocket_url

    def _token_of(self, user: UserId) -> Token:
        async def token(fresh: bool) -> str:
            return self.tokens.mint(user, SERVICE_TOKEN_TTL_S, ("user", "service"))

        return token

    def _api(self, user: UserId) -> HttpApi:
        return HttpApi(self.settings.relay_url or self.http_url, self._token_of(user))

    def _endpoint(
        self, user: UserId, kind: str, sealer: DataKeySealer, sink: Sink, fence: Fence | None
    ) -> Endpoint:
        return StoredEndpoint(
            user=user,
            kind="gateway" if kind == "gateway" else "bridge",
            vault=self.store.vault,
            sealer=sealer,
            api=self._api(user),
            connector=PicowsConnector(self._relay_websocket_url()),
            token=self._token_of(user),
            clock=self.clock,
            sink=sink,
            fence=fence,
        )

    # --- agents -------------------------------------------------------------------------------

    async def _open_agents(self) -> list[APIRouter]:
        sealer = await self._sealer("gateway")

        async def make_endpoint(sink: Sink, fence: Fence) -> Endpoint:
            return self._endpoint(self.gateway_user, "gateway", sealer, sink, fence)

        self._http_port()  # Cards hold it.
        self.agents = agents = AgentService(
            settings=self.settings,
            store=self.store,
            clock=self.clock,
            sealer=sealer,
            owner=self.owner,
            user=self.gateway_user,
            make_endpoint=make_endpoint,
            files=Files(self._read_file, self._store_file),
            secret=self.secret,
            guard=Guard(self.tokens, self.limiter),
            operators=Guard(self.tokens, Limiter(API_REQUESTS_PER_MINUTE, self.clock)),
            trail=AuditTrail(audit=self.store.audit, clock=self.clock, secret=self.secret),
            base_url=self.settings.public_base_url or self.http_url,
            peers=self.wire.peers,
            cache=self.wire.cache,
        )
        self._parts.push_async_callback(agents.close)
        routers = await agents.open()
        self._gauges("gateway", "Of the gateway.", agents.gateway.figures)
        self._gauges("agents", "Of agents.", agents.ward.figures)
        self._gauges("discovery", "Of agents that are discovered.", agents.figures)
        self._checks["gateway"] = agents.check(self._may_stand_by)
        return routers

    async def _read_file(self, conversation: ConversationId, file: FileRef) -> bytes:
        api = self._api(self.gateway_user)
        try:
            return await attachments.read(api, conversation, file)
        finally:
            await api.close()

    async def _store_file(self, plan: SealedFile, data: bytes) -> bytes:
        api = self._api(self.gateway_user)
        try:
            return await attachments.store(api, plan, data)
        finally:
            await api.close()

    # --- bridge -------------------------------------------------------------------------------

    async def _make_bridge(self) -> APIRouter:
        settings, store = self.settings, self.store
        self._http_port()  # The status callback's URL holds it.
        public = settings.public_base_url or self.http_url
        http = httpx2.AsyncClient(trust_env=False)
        self._parts.push_async_callback(http.aclose)
        channel = open_channel(settings, http, public, self.clock, self.wire.peers)
        sealer = await self._sealer("bridge")
        counts = self.metrics.labelled("bridge_total", "What the bridge did.", "what")
        bridge = self.bridge = Bridge(
            channel=channel,
            webhooks=store.webhooks,
            outbox=store.outbox,
            vault=store.vault,
            leases=store.leases,
            make_endpoint=lambda user, sink: self._endpoint(
                user, "bridge", sealer, sink, bridge.fence
            ),
            sealer=sealer,
            contacts=Contacts(
                channel=channel.name,
                vault=store.vault,
                sealer=sealer,
                key=await mark_key(store.vault, sealer),
                domain=settings.domain,
            ),
            policy=Policy(),
            clock=self.clock,
            gateway_user=self.gateway_user,
            owner=self.owner,
            count=counts.add,
            rate_per_minute=settings.rate_per_minute,
        )
        self._checks["bridge"] = self._check_bridge
        self.metrics.gauge(
            "bridge_inbound_last_ms", "When a contact last wrote.",
            lambda: bridge.inbound.received_ms,
        )  # fmt: skip
        self.metrics.gauge(
            "bridge_delivered_last_ms", "When a delivery was last confirmed.",
            lambda: bridge.outbox.delivered_ms,
        )  # fmt: skip
        return webhook_router(
            channel=channel,
            inbox=store.webhooks,
            seal=sealer,
            clock=self.clock,
            public_base_url=public,
            wake=bridge.wake,
        )

    async def _check_bridge(self) -> None:
        if self.bridge is None or not (self.bridge.working or self._may_stand_by(self.bridge)):
            raise Unavailable("the bridge does not hold its lease yet")

    # --- tasks --------------------------------------------------------------------------------

    def _own(self, work: Awaitable[None]) -> None:
        self._work.add(asyncio.ensure_future(work))

    async def failed(self) -> None:
        """Return when a task of the node ended, which none does by itself. Raises its error."""
        done, _ = await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _keep_house(self) -> None:
        """Drop what is past its time, now and again; a store that is away is asked later."""
        while True:
            try:
                now_ms = self.clock.now_ms()
                await self.store.blobs.expire(now_ms)
                await self.store.webhooks.forget(now_ms - WEBHOOK_KEPT_S * 1000)
                await self.store.turns.bury(now_ms - DEAD_TURNS_KEPT_S * 1000, DEAD_TURNS_MAX)
            except AngariumError as error:
                log.warning("housekeeping.delayed", code=error.code)
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)

    async def _wait_ready(self) -> None:
        told_s = self.clock.monotonic_s()
        while failures := await self.health.failures():
            for task in self._work:
                if task.done():
                    task.result()
            if self.clock.monotonic_s() - told_s > TELL_WAITING_EVERY_S:
                told_s = self.clock.monotonic_s()
                log.info("node.waiting", checks=failures)  # E.g. for a dead node's lease.
            await asyncio.sleep(0.01)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _tell_blocked(held_s: float, where: str) -> None:
    log.warning("loop.blocked", seconds=round(held_s, 1), where=where)


def _one(read: Figures, name: str) -> float:
    return read()[name]
