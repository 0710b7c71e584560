"""A whole HTTP API over a real store, called through ASGI; devices with real keys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from angarium.bus.contract import Event
from angarium.bus.local import LocalBus
from angarium.clock import ManualClock
from angarium.e2ee.olm import OlmEngine
from angarium.ids import UserId, new_device_id
from angarium.keys.directory import Keys
from angarium.server.api import ApiParts, WellKnown, api_routers, make_app
from angarium.server.audit import AuditTrail
from angarium.server.auth import Tokens
from angarium.server.health import Health
from angarium.server.limiter import Limiter
from angarium.server.roles import Roles
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import open_sqlite
from angarium.telemetry.metrics import Metrics

GATEWAY = UserId("@gateway:angarium")
SECRET = b"0123456789abcdef0123456789abcdef"


class Api:
    """The API, its store, and tokens for whoever calls."""

    def __init__(self, store: Store, clock: ManualClock, requests_per_minute: int) -> None:
        self.store, self.clock = store, clock
        self.tokens = Tokens(SECRET, clock)
        self.events: list[Event] = []
        self.metrics = Metrics()
        self.slowed_s: list[float] = []
        bus = LocalBus()
        bus.subscribe(self.events.extend)
        parts = ApiParts(
            store=store,
            keys=Keys(directory=store.directory, bus=bus, clock=clock),
            bus=bus,
            clock=clock,
            tokens=self.tokens,
            audit=AuditTrail(audit=store.audit, clock=clock, secret=SECRET),
            roles=Roles(GATEWAY),
            limiter=Limiter(requests_per_minute, clock),
            sleep=self.slow,
            well_known=WellKnown("ws://localhost:8401", GATEWAY, "0.0.0"),
        )
        self.app = make_app(
            version="0.0.0",
            health=Health({}),
            metrics=self.metrics,
            routers=api_routers(parts),
            https=True,
        )
        transport = httpx2.ASGITransport(app=self.app)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://node")

    async def slow(self, seconds: float) -> None:
        self.slowed_s.append(seconds)

    async def call(
        self,
        method: str,
        path: str,
        user: str = "@ada:angarium",
        *,
        scopes: tuple[str, ...] = ("user",),
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx2.Response:
        token = self.tokens.mint(user, 60, scopes)
        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        return await self.http.request(method, path, headers=sent, **options)

    async def publish(self, user: str, engine: OlmEngine | None = None) -> OlmEngine:
        """Publish a device of `user` with its identity and three one-time keys."""
        engine = engine or self.device(user)
        identity = engine.identity_keys()
        if identity:
            answer = await self.call("POST", "/v1/keys/signing/upload", user, json=identity)
            assert answer.status_code == 200, answer.text
        body = {"device_keys": engine.device_keys(), **engine.make_prekeys(3, True)}
        answer = await self.call("POST", "/v1/keys/upload", user, json=body)
        assert answer.status_code == 200, answer.text
        return engine

    def device(self, user: str) -> OlmEngine:
        return OlmEngine.create(UserId(user), new_device_id(), kind="sdk", clock=self.clock)


@asynccontextmanager
async def opened(requests_per_minute: int = 10_000) -> AsyncIterator[Api]:
    clock = ManualClock()
    sqlite = await open_sqlite(None, clock, inline=True)
    api = Api(sqlite.store, clock, requests_per_minute)
    try:
        yield api
    finally:
        await api.http.aclose()
        await sqlite.close()


Scenario = Callable[[Api], Awaitable[None]]


@pytest.fixture
def run() -> Callable[..., None]:
    """Run a scenario against a fresh API."""

    def runner(scenario: Scenario, requests_per_minute: int = 10_000) -> None:
        async def whole() -> None:
            async with opened(requests_per_minute) as api:
                await scenario(api)

        asyncio.run(whole())

    return runner
