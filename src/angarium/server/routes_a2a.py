"""Agents behind A2A: a public card each, and doors for whoever has a token."""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from angarium.agents.direct import DirectRunner
from angarium.agents.registry import Registry
from angarium.agents.routing.rules import may_answer
from angarium.clock import Clock
from angarium.errors import NotFound, Unavailable
from angarium.kms.contract import Sealer
from angarium.server.guard import Guard
from angarium.storage.contract import Vault

CARD_PATH = "/agents/{agent}/.well-known/agent-card.json"
RPC_PATH = "/agents/{agent}/a2a"
REST_PATH = "/agents/{agent}/a2a/rest/{path:path}"
CARD_HEADERS = {"cache-control": "public, max-age=300"}


def a2a_is_installed() -> bool:
    """Whether the extra `a2a` is there."""
    return find_spec("a2a") is not None


class A2ARoutes:
    """The agents of this node, each behind a door that is made at its first request.

    `close` it before the HTTP server stops: streams that wait would hold it up.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        runner: DirectRunner,
        vault: Vault,
        sealer: Sealer,
        clock: Clock,
        guard: Guard,
        base_url: str,
        version: str,
    ) -> None:
        self._registry, self._guard = registry, guard
        self._ground: Mapping[str, Any] = {
            "runner": runner,
            "vault": vault,
            "sealer": sealer,
            "clock": clock,
            "version": version,
            "base_url": base_url,
        }
        self._doors: dict[str, Any] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    def routers(self) -> list[APIRouter]:
        """The cards, public, and the doors, behind the guard."""
        cards = APIRouter(tags=["agents"])
        cards.add_api_route(CARD_PATH, self.card, methods=["GET"])
        doors = self._guard.router("agents", agents=True)
        doors.add_api_route(RPC_PATH, self.call, methods=["POST"])
        for method in ("GET", "POST", "DELETE"):
            doors.add_api_route(REST_PATH, self.rest, methods=[method])
        return [cards, doors]

    async def card(self, request: Request, agent: str) -> Response:
        """The A2A card of an agent: its skills, and where it is called."""
        shape, tag = (await self._door(agent)).card()
        headers = {**CARD_HEADERS, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return JSONResponse(shape, headers=headers)

    async def call(self, agent: str) -> Response:
        """A2A over JSON-RPC, 1.0 and 0.3; streams where the method says so."""
        return Passage(await self._door(agent), "/")

    async def rest(self, agent: str, path: str) -> Response:
        """A2A over HTTP+JSON."""
        return Passage(await self._door(agent), f"/rest/{path}")

    async def close(self) -> None:
        """End every running task; it is told as failed. Requests meet Unavailable then."""
        self._closed = True
        async with self._opening:
            doors, self._doors = self._doors, {}
        for door in doors.values():
            await door.close()

    async def _door(self, name: str) -> Any:
        """Raises NotFound, Unavailable."""
        agent = self._registry.find(name)
        if agent is None or not may_answer(agent, "app"):
            raise NotFound("there is no such agent")
        async with self._opening:
            if self._closed:
                raise Unavailable("this node stops")
            door = self._doors.get(name)
            if door is None:
                # The SDK takes a second to load; meanwhile the loop goes on.
                made = await asyncio.to_thread(import_module, "angarium.server.a2a_door")
                ground = made.Ground(**self._ground)
                door = self._doors[name] = made.Door(agent, ground)
            door.show(agent)
            return door


class Passage(Response):
    """Lets a door answer in its own way."""

    def __init__(self, door: Any, path: str) -> None:
        super().__init__()
        self._door, self._path = door, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door.serve(self._path, scope, receive, send)
