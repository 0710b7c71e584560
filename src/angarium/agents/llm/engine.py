"""What is warm between the turns of an LLM agent: models, connections, tools."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal

from pydantic import Field, create_model
from pydantic_ai import Agent, DeferredToolRequests, ToolOutput
from pydantic_ai.models import Model

from angarium.agents.contract import AgentEvent, Host, Turn
from angarium.agents.llm.links import Links
from angarium.agents.llm.live import LiveTurn
from angarium.agents.llm.local import LocalServer, is_local
from angarium.agents.llm.loop import HAND_OFF, Bounds, Exchange
from angarium.agents.llm.outline import Outline
from angarium.agents.llm.prompt import earlier_messages, instructions, prompt
from angarium.agents.llm.providers import guard, in_turn, make_client, make_model
from angarium.agents.llm.toolsets import ServerToolset, own_toolset
from angarium.clock import Clock
from angarium.errors import Misconfigured


class Engine:
    """Raises Misconfigured for tools that cannot be described. `close` it."""

    def __init__(self, outline: Outline, host: Host | None, clock: Clock) -> None:
        self._outline, self._host, self._clock = outline, host, clock
        self._client = make_client()
        self._links = Links(clock)
        self._locals: dict[str, LocalServer] = {}
        self._models: dict[str, Model] = {}
        self._making = asyncio.Lock()
        self._bounds = Bounds(outline.max_tool_calls, outline.budget_usd, outline.budget_tokens)
        self._agent = outline.adopted or self._make_agent()

    async def warm(self) -> None:
        """Make every model, start every server that is not lazy. Raises Misconfigured and
        Unavailable; what could be had is kept."""
        for name in self._outline.models:
            await self._model(name)
        eager = [mcp for mcp in self._outline.servers if not mcp.lazy]
        links = [await self._links.get(mcp) for mcp in eager]
        found = await asyncio.gather(*(link.tools() for link in links), return_exceptions=True)
        for trouble in found:
            if isinstance(trouble, BaseException):
                raise trouble

    async def close(self) -> None:
        await self._links.close()
        for server in self._locals.values():
            await server.close()
        await self._client.aclose()

    async def run(self, turn: Turn, models: Sequence[str]) -> AsyncGenerator[AgentEvent, None]:
        """Answer the turn with the first of `models` that does not fail."""
        outline = self._outline
        live = LiveTurn(turn, outline.max_tool_calls)
        given: dict[str, Any] = {}
        model: Model | None = None
        if outline.adopted is None:
            model = in_turn([await self._model(name) for name in models])
            told = instructions(
                outline.prompt,
                turn,
                live.marks,
                outline.handoffs,
                has_tools=bool(outline.tools or outline.servers),
            )
            given = {"deps": live, "instructions": told}
        else:
            given = {"output_type": adopted_output(outline.adopted)}
            given["instructions"] = live.marks.explain()
        exchange = Exchange(self._agent, model, live, self._clock, self._bounds, **given)
        asked = await prompt(turn, live.marks)
        async with aclosing(exchange.events(earlier_messages(turn), asked)) as events:
            async for event in events:
                yield event

    # --- parts ----------------------------------------------------------------------------

    def _make_agent(self) -> Agent[LiveTurn, Any]:
        outline = self._outline
        output: list[Any] = [str, DeferredToolRequests]
        if outline.handoffs:
            output.append(ToolOutput(_hand_off_to(outline.handoffs), name=HAND_OFF))
        reserved = frozenset({HAND_OFF, *(tool.name for tool in outline.tools)})
        servers = [
            ServerToolset(mcp, self._links, self._guarded, reserved) for mcp in outline.servers
        ]
        return Agent(
            None,
            name=outline.name,
            deps_type=LiveTurn,
            output_type=output,
            toolsets=[own_toolset(outline.tools), *servers],
        )

    async def _model(self, name: str) -> Model:
        async with self._making:
            made = self._models.get(name)
            server = self._locals.get(name)
            if made is None or (server is not None and not server.is_running):
                made = self._models[name] = await self._make_model(name)
            return made

    async def _make_model(self, name: str) -> Model:
        place = self._outline.models[name]
        if not isinstance(place, str):
            return guard(place, self._host)
        if is_local(place):
            server = self._locals.setdefault(name, LocalServer(place))
            return guard(await server.model(self._client), self._host)
        return guard(make_model(place, self._client), self._host)

    async def _guarded(self, name: str, call: Callable[[], Awaitable[str]]) -> str:
        if self._host is None:
            return await call()
        return await self._host.breaker(name).call(call)


def _hand_off_to(names: tuple[str, ...]) -> type[Any]:
    """The model's way to pass a conversation on: to one of these, and to nobody else."""
    one_of: Any = Literal[names]
    made: type[Any] = create_model(
        "HandOff",
        __doc__="Pass the conversation, and this message, to somebody who is better placed.",
        to=(one_of, Field(description="Who takes over.")),
        reason=(str, Field(default="", description="Why, in a few words.")),
    )
    return made


def adopted_output(agent: Any) -> list[Any]:
    """What an adopted agent gives, and the questions for approval that we ask for it."""
    if not isinstance(agent, Agent):
        raise Misconfigured("from_pydantic_ai takes an `Agent` of pydantic_ai")
    own = agent.output_type
    outputs = list(own) if isinstance(own, list | tuple) else [own]
    return outputs if DeferredToolRequests in outputs else [*outputs, DeferredToolRequests]
