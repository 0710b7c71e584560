"""Real HTTP services that stand in for agents elsewhere, and a way to ask through them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from angarium.agents.contract import AgentKind, Person, Text
from angarium.agents.direct import DirectEvent, DirectRunner
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.server.http import HttpServer

ADA = Person("@ada:x", "Ada", language="en")


class Service:
    """Answers every POST with what `answer(request, body)` gives; keeps what it heard."""

    def __init__(self, answer: Callable[[Request, bytes], Response]) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.stopped = 0
        self._answer = answer
        routes = [
            Route("/{path:path}", self._take, methods=["POST"]),
        ]
        self._server = HttpServer(Starlette(routes=routes), "127.0.0.1", 0)

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        self.heard.append((dict(request.headers), body))
        return self._answer(request, body)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    async def __aenter__(self) -> "Service":
        await self._server.start()
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self._server.stop()


def stream(*pieces: str | bytes, broken: bool = False) -> StreamingResponse:
    """An event stream of these pieces; `broken`: the connection is cut in the middle."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece.encode() if isinstance(piece, str) else piece
        if broken:
            raise ConnectionResetError

    return StreamingResponse(body(), media_type="text/event-stream")


@asynccontextmanager
async def opened(*agents: Any, **named: Any) -> AsyncIterator[DirectRunner]:
    """A runner of these agents, opened and closed; it retries without waiting."""
    clock = ManualClock()

    async def sleep(_seconds: float) -> None:
        """No time passes."""

    ward = Ward(clock, sleep=sleep)
    for agent in agents:
        await agent.open(ward)
    try:
        yield DirectRunner(Registry(agents), ward, clock, **named)
    finally:
        for agent in agents:
            await agent.close()


async def events(
    runner: DirectRunner, agent: AgentKind, text: str = "hi", **named: Any
) -> list[DirectEvent]:
    history = named.pop("history", ())
    run = runner.run(agent.name, text, history, ADA, **named)
    return [event async for event in run]


async def answer(agent: AgentKind, text: str = "hi", **named: Any) -> str:
    """What the agent says to a message, from opening it to closing it."""
    async with opened(agent) as runner:
        found = await events(runner, agent, text, **named)
    return "".join(event.text for event in found if isinstance(event, Text))
