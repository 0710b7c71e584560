"""Tools as the framework wants them: functions of one's own, and those of MCP servers."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, get_type_hints

from pydantic_ai import FunctionToolset, ModelRetry, RunContext, ToolDefinition
from pydantic_ai import Tool as FrameworkTool
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from angarium.agents.llm.journal import EFFECT
from angarium.agents.llm.links import Links, RemoteTool
from angarium.agents.llm.live import LiveTurn
from angarium.agents.marking import clean
from angarium.agents.mcp import MCP
from angarium.agents.toolbox import Tool
from angarium.errors import Misconfigured, Unavailable

_ANYTHING = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))
Context = RunContext[LiveTurn]
Guarded = Callable[[str, Callable[[], Awaitable[str]]], Awaitable[str]]
TOOL_RETRIES = 2  # A model that gives wrong arguments again and again is stopped.


def own_toolset(tools: Sequence[Tool]) -> FunctionToolset[LiveTurn]:
    """Raises Misconfigured for a function whose parameters cannot be described."""
    made = FunctionToolset[LiveTurn](max_retries=TOOL_RETRIES, id="own")
    for tool in tools:
        try:
            made.add_tool(_framework_tool(tool))
        except Exception as error:
            raise Misconfigured(f"tool {tool.name!r}: {error}") from None
    return made


def _framework_tool(tool: Tool) -> FrameworkTool[LiveTurn]:
    async def call(ctx: RunContext[LiveTurn], **arguments: Any) -> Any:
        context = ctx.deps.contexts[ctx.tool_call_id or ""]
        return await tool.function(context, **arguments)

    shape = inspect.signature(tool.function)
    first, *rest = shape.parameters.values()
    hints = get_type_hints(tool.function)
    hints.pop(first.name, None)
    ctx = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=RunContext[LiveTurn]
    )
    typed = [one.replace(annotation=hints.get(one.name, Any)) for one in rest]
    shown: Any = call
    shown.__signature__ = shape.replace(parameters=[ctx, *typed])
    shown.__annotations__ = {**hints, "ctx": RunContext[LiveTurn]}
    shown.__name__, shown.__doc__ = tool.name, tool.function.__doc__
    return FrameworkTool(
        call,
        takes_ctx=True,
        name=tool.name,
        description=tool.description or None,
        requires_approval=tool.requires_approval,
        metadata={EFFECT: tool.effect},
    )


class ServerToolset(AbstractToolset[LiveTurn]):
    """The tools of one MCP server. A server that is away costs a turn nothing but its tools:
    the model is told, and the person through it."""

    def __init__(self, mcp: MCP, links: Links, call: Guarded, reserved: frozenset[str]) -> None:
        self._mcp, self._links, self._guarded = mcp, links, call
        self._reserved = reserved

    @property
    def id(self) -> None:
        """None: two servers may have one name."""

    async def get_tools(self, ctx: Context) -> dict[str, ToolsetTool[LiveTurn]]:
        try:
            offered = await (await self._links.get(self._mcp)).tools()
        except Unavailable as error:
            if ctx.deps.waits_for(self._mcp.name):
                raise  # Calls of an interrupted attempt are its; they are not to be lost.
            ctx.deps.absent[self._mcp.name] = {"": str(error)}
            return {}
        problems = {tool.name: self._problem(tool, ctx.deps) for tool in offered}
        ctx.deps.absent[self._mcp.name] = {name: why for name, why in problems.items() if why}
        usable = [tool for tool in offered if not problems[tool.name]]
        ctx.deps.owners.update({tool.name: self._mcp.name for tool in usable})
        return {tool.name: self._as_tool(tool) for tool in usable}

    def _problem(self, tool: RemoteTool, live: LiveTurn) -> str:
        """Why it cannot be used. A server cannot put its tool in the place of another's."""
        owner = live.owners.get(tool.name, self._mcp.name)
        if tool.name in self._reserved or owner != self._mcp.name:
            return "another tool has its name"
        return tool.problem

    async def get_instructions(self, ctx: Context) -> str | None:
        """Which tools cannot be used just now. In our words: a server's own are not here."""
        absent = ctx.deps.absent.get(self._mcp.name)
        if not absent:
            return None
        if "" in absent:
            return f"Unavailable just now, say so if it is needed: {absent['']}."
        lines = [f"- {clean(name)[:100]!r}: {why}" for name, why in absent.items()]
        return "\n".join(["These tools cannot be used; say so if one is needed:", *lines])

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: Context,
        tool: ToolsetTool[LiveTurn],
    ) -> str:
        key = ctx.deps.contexts[ctx.tool_call_id or ""].idempotency_key
        effect = (tool.tool_def.metadata or {}).get(EFFECT, "once")
        link = await self._links.get(self._mcp)
        return await self._guarded(
            f"mcp:{self._mcp.name}", lambda: link.call(name, tool_args, key, effect)
        )

    def _as_tool(self, tool: RemoteTool) -> ToolsetTool[LiveTurn]:
        async def check(_ctx: Context, /, **arguments: Any) -> None:
            problem = tool.check(arguments)
            if problem:
                raise ModelRetry(problem)

        definition = ToolDefinition(
            name=tool.name,
            description=tool.description,
            parameters_json_schema=tool.schema,
            kind="unapproved" if self._mcp.wants_approval(tool.name) else "function",
            defer_loading=self._mcp.lazy,
            metadata={EFFECT: tool.effect},
        )
        return ToolsetTool(
            toolset=self,
            tool_def=definition,
            max_retries=TOOL_RETRIES,
            args_validator=_ANYTHING,
            args_validator_func=check,
        )
