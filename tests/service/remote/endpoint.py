"""Our OpenAI endpoint on a real server, with what the tests look into."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai

from angarium.agents.agent import Agent
from angarium.agents.contract import AgentKind
from angarium.agents.direct import DirectRunner
from angarium.agents.registry import Registry
from angarium.agents.requests import Requests
from angarium.agents.shelf import Shelf
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.server.api import make_app
from angarium.server.auth import Tokens
from angarium.server.guard import Guard
from angarium.server.health import Health
from angarium.server.http import HttpServer
from angarium.server.limiter import Limiter
from angarium.server.routes_openai import OpenAIRoutes
from angarium.storage.contract import Store
from angarium.telemetry.metrics import Metrics
from angarium.testing.agents import in_memory
from angarium.testing.fakes import FixedKeySealer

SECRET = b"0123456789abcdef0123456789abcdef"


class Endpoint:
    """A node's worth of the OpenAI API, without the node."""

    def __init__(self, store: Store, agents: Sequence[AgentKind], per_minute: int) -> None:
        self.clock, self.store = ManualClock(), store
        self.registry, self.ward = Registry(agents), Ward(self.clock)
        self.shelf = Shelf(store.vault, FixedKeySealer(), self.clock)
        self.runner = DirectRunner(self.registry, self.ward, self.clock)
        self.tokens = Tokens(SECRET, self.clock)
        requests = Requests(self.registry, self.runner, self.shelf, self.clock, self._choose)
        guard = Guard(self.tokens, Limiter(per_minute, self.clock), self._slow)
        routes = OpenAIRoutes(
            requests=requests, registry=self.registry, clock=self.clock, guard=guard
        )
        app = make_app(
            version="0", health=Health({}), metrics=Metrics(), routers=[routes.router()]
        )
        self.server = HttpServer(app, "127.0.0.1", 0)

    async def _slow(self, _seconds: float) -> None:
        """No time passes."""

    async def _choose(self, text: str, sticky: str) -> str:
        return sticky or self.registry.default

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/v1"

    def token(self, user: str = "@ada:angarium", scope: str = "agents") -> str:
        return self.tokens.mint(user, 3600, [scope])

    def client(self, key: str | None = None, **named: Any) -> openai.AsyncOpenAI:
        """OpenAI's own client; it retries nothing unless told to."""
        named.setdefault("max_retries", 0)
        return openai.AsyncOpenAI(
            base_url=self.base_url, api_key=key or self.token(), timeout=10.0, **named
        )


@asynccontextmanager
async def endpoint(
    *functions: Any, agents: Sequence[AgentKind] = (), per_minute: int = 600, **terms: Any
) -> AsyncIterator[Endpoint]:
    """Serve agents named like their functions, and others."""
    made: list[AgentKind] = []
    for function in functions:
        agent = Agent(function.__name__, f"{function.__name__} for tests", **terms)
        agent.on_turn(function)
        made.append(agent)
    opened = await in_memory(ManualClock())
    try:
        found = Endpoint(opened.store, [*made, *agents], per_minute)
        for agent in agents:
            await agent.open(found.ward)
        await found.server.start()
        try:
            yield found
        finally:
            await found.server.stop()
            for agent in agents:
                await agent.close()
    finally:
        await opened.close()
