"""Connections to MCP servers: opened at first use, kept warm, few, and closed when idle."""

import asyncio
import json
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import mcp_types
from fastmcp.client import Client
from fastmcp.client.transports import ClientTransport, StdioTransport, StreamableHttpTransport
from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]
from mcp import MCPError
from pydantic import ValidationError
from pydantic_ai.exceptions import ToolFailed
from referencing import Registry

from angarium.agents.contract import Effect
from angarium.agents.llm.live import Unanswered
from angarium.agents.marking import clean
from angarium.agents.mcp import MCP
from angarium.clock import Clock
from angarium.errors import (
    AngariumError,
    Malformed,
    OutcomeUnknown,
    SchemaBroken,
    TooLarge,
    Unavailable,
)
from angarium.limits import (
    MCP_AGAIN_S,
    MCP_ANSWER_BYTES_MAX,
    MCP_CLOSE_S,
    MCP_DESCRIPTION_CHARS_MAX,
    MCP_IDLE_S,
    MCP_LIST_S,
    MCP_OPEN_S,
    MCP_PING_S,
    MCP_SCHEMA_BYTES_MAX,
    MCP_TOOLS_MAX,
    MCP_TOOLS_TTL_S,
    MCP_WARM_MAX,
)

_log = logging.getLogger(__name__)
KEY_META = "angarium/idempotencyKey"  # In `_meta` of each call.


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """One tool of a server, as far as it can be believed. `problem`: why it cannot be used."""

    name: str
    description: str
    schema: dict[str, Any]
    effect: Effect
    problem: str = ""

    def check(self, arguments: dict[str, Any]) -> str:
        """What is wrong with the arguments, or nothing."""
        try:
            error = next(iter(_validator(self.schema).iter_errors(arguments)), None)
        except Exception:  # A schema can be valid and still not be usable.
            return "the tool's schema cannot be used"
        if error is None:
            return ""
        place = "/".join(str(step) for step in error.absolute_path) or "the arguments"
        return f"{place}: {error.message[:300]}"


class Link:
    """One server. Its list of tools outlives its connection; `users` counts calls under way."""

    def __init__(self, mcp: MCP, clock: Clock) -> None:
        self.mcp, self._clock = mcp, clock
        self._client: Client[Any] | None = None
        self._opening, self._listing = asyncio.Lock(), asyncio.Lock()
        self._tools: tuple[RemoteTool, ...] | None = None
        self._listed_s = self._failed_s = float("-inf")
        self._error: AngariumError | None = None
        self._gone = False  # The connection has ended.
        self._suspect = False  # A call went unanswered: look whether the server still is.
        self.users = 0
        self.used_s = clock.monotonic_s()

    @property
    def is_open(self) -> bool:
        return self._client is not None

    async def tools(self) -> tuple[RemoteTool, ...]:
        """What it offers, from memory while the list is young. Raises Unavailable where there
        is no list, however old."""
        async with self._listing:  # Turns that begin together ask once.
            now_s = self._clock.monotonic_s()
            if self._tools is None or now_s - self._listed_s >= MCP_TOOLS_TTL_S:
                self._listed_s = now_s  # Before: its server may say meanwhile that it changed.
                self._tools = await self._list(self._tools)
            return self._tools

    async def _list(self, known: tuple[RemoteTool, ...] | None) -> tuple[RemoteTool, ...]:
        """From the server; while it is away, what is known serves for another while."""
        try:
            async with self._connected() as client, asyncio.timeout(MCP_LIST_S):
                listed = await client.list_tools(max_pages=16)
        except Exception as error:
            trouble = self._trouble(error)
            if known is None:
                raise trouble from None
            return known
        offered = (tool for tool in listed[:MCP_TOOLS_MAX] if self.mcp.allows(tool.name))
        return tuple(_believe(tool, self.mcp) for tool in offered)

    async def call(self, tool: str, arguments: dict[str, Any], key: str, effect: Effect) -> str:
        """The text of its answer. Raises Unavailable where nothing was sent; where something
        was and no answer came, Unanswered for `read` and `keyed` and OutcomeUnknown for
        `once`. Raises SchemaBroken, Malformed and TooLarge, and ToolFailed where the tool
        itself says that it failed, or its server that it takes no such call."""
        try:
            async with self._connected() as client:
                try:
                    async with asyncio.timeout(self.mcp.call_s):
                        answer = await client.call_tool_mcp(
                            tool, arguments, meta={KEY_META: key}
                        )
                except Exception as error:
                    raise self._call_trouble(error, tool, effect) from None
        except (AngariumError, ToolFailed):
            raise
        except Exception as error:
            raise self._trouble(error) from None
        text = _text(answer)
        if answer.is_error:
            raise ToolFailed(text or "the tool failed")
        return text

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _leave(client)

    def expire(self) -> None:
        """Its tools have changed."""
        self._listed_s = float("-inf")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client[Any]]:
        self.users += 1
        try:
            yield await self._open()
        finally:
            self.users -= 1
            self.used_s = self._clock.monotonic_s()

    async def _open(self) -> Client[Any]:
        async with self._opening:
            if self._client is not None and await self._is_alive(self._client):
                return self._client
            now_s = self._clock.monotonic_s()
            if self._error is not None and now_s - self._failed_s < MCP_AGAIN_S:
                raise self._error  # Nobody waits twice for a server that does not start.
            await self.close()
            client = make_client(self.mcp, self.expire)
            try:
                async with asyncio.timeout(MCP_OPEN_S):
                    await client.__aenter__()  # type: ignore[no-untyped-call]
            except Exception as error:
                await _leave(client)
                self._failed_s, self._error = now_s, self._trouble(error)
                raise self._error from None
            self._client, self._error = client, None
            self._suspect = self._gone = False
            return client

    async def _is_alive(self, client: Client[Any]) -> bool:
        if self._gone or not client.is_connected():
            return False
        if not self._suspect:
            return True
        try:
            async with asyncio.timeout(MCP_PING_S):
                await client.ping()
        except MCPError as error:
            if error.code not in _REFUSALS:  # It answers, but knows no ping.
                return False
        except Exception:
            return False
        self._suspect = False
        return True

    def _trouble(self, error: BaseException) -> AngariumError:
        if isinstance(error, AngariumError):
            return error
        _log.warning("tool server %s: %s", self.mcp.name, _names(error))
        return Unavailable(f"the tool server {self.mcp.name!r} does not answer")

    def _call_trouble(self, error: Exception, tool: str, effect: Effect) -> Exception:
        """What went wrong after the call may have been sent."""
        found = _first(error)
        if isinstance(found, RuntimeError) and _is_about_schema(str(found), tool):
            return SchemaBroken(f"{tool} ran, but its answer breaks its own schema")
        if isinstance(found, ValidationError):
            return Malformed(f"{tool} ran, but its answer is not one")
        if isinstance(found, MCPError) and found.code in _REFUSALS:
            return ToolFailed(clean(found.message)[:500])
        if isinstance(found, TooLarge):
            return TooLarge(f"{tool} ran, but its answer is too large")
        self._suspect = True
        self._gone = isinstance(found, MCPError) and found.code == mcp_types.CONNECTION_CLOSED
        trouble = self._trouble(error)
        if effect == "once":
            return OutcomeUnknown(f"{tool} did not answer")
        return Unanswered(str(trouble), after_ms=100)


class Links:
    """The warm connections of one agent: at most MCP_WARM_MAX, none idle over MCP_IDLE_S."""

    def __init__(self, clock: Clock, warm_max: int = MCP_WARM_MAX) -> None:
        self._clock, self._warm_max = clock, warm_max
        self._links: OrderedDict[int, Link] = OrderedDict()
        self._sweeper: asyncio.Task[None] | None = None

    async def get(self, mcp: MCP) -> Link:
        """The link to that server, now the one used last. Not necessarily connected."""
        link = self._links.get(id(mcp))
        if link is None:
            link = self._links[id(mcp)] = Link(mcp, self._clock)
        self._links.move_to_end(id(mcp))
        link.used_s = self._clock.monotonic_s()
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="idle tool servers")
        warm = [known for known in self._links.values() if known.is_open]
        for known in warm[: max(0, len(warm) - self._warm_max + 1)]:
            if known is not link and not known.users:
                await known.close()
        return link

    async def close_idle(self) -> None:
        now_s = self._clock.monotonic_s()
        for link in list(self._links.values()):
            if not link.users and now_s - link.used_s >= MCP_IDLE_S:
                await link.close()

    async def close(self) -> None:
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links.values()))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(MCP_IDLE_S / 10)
            await self.close_idle()


def make_client(mcp: MCP, changed: Callable[[], None]) -> Client[Any]:
    """Not connected yet. `changed` is called when the server says that its tools did."""

    async def hear(message: Any) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification):
            changed()

    transport: ClientTransport
    if mcp.url:
        transport = StreamableHttpTransport(
            mcp.url, headers=mcp.headers, httpx_client_factory=_http_client
        )
    else:
        command, *words = mcp.command
        transport = StdioTransport(
            command,
            words,
            env=mcp.env or None,
            keep_alive=False,
            # What it writes there may quote people: into a file of its own, or nowhere.
            log_file=Path(mcp.log or os.devnull),
        )
    return Client(transport, message_handler=hear, init_timeout=MCP_OPEN_S)


def _http_client(
    headers: dict[str, str] | None = None,
    timeout: httpx2.Timeout | None = None,
    auth: httpx2.Auth | None = None,
    **_given: Any,
) -> httpx2.AsyncClient:
    """No proxies of the environment, no redirects but those the protocol follows itself."""
    return httpx2.AsyncClient(
        headers=headers,
        timeout=timeout or httpx2.Timeout(MCP_OPEN_S, read=MCP_OPEN_S * 10),
        auth=auth,
        follow_redirects=False,
        trust_env=False,
        transport=BoundedAnswers(),
    )


class BoundedAnswers(httpx2.AsyncHTTPTransport):
    """Ends an answer at MCP_ANSWER_BYTES_MAX; streams of events are bounded by event."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        stream = response.stream
        if isinstance(stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(stream)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MCP_ANSWER_BYTES_MAX
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise TooLarge(f"an answer over {MCP_ANSWER_BYTES_MAX} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


_REFUSALS = {-32601, -32602, -32600, -32002}  # Said before anything ran.


def _believe(tool: mcp_types.Tool, mcp: MCP) -> RemoteTool:
    """The tool, cleaned and bounded; with the problem that keeps it from being used."""
    description = clean(tool.description or "")[:MCP_DESCRIPTION_CHARS_MAX]
    effect = mcp.effect_of(tool.annotations)
    schema: Any = tool.input_schema
    problem = _schema_problem(schema)
    return RemoteTool(tool.name, description, {} if problem else schema, effect, problem)


def _schema_problem(schema: Any) -> str:
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        return "schema_broken, its schema is not one of an object"
    if len(json.dumps(schema)) > MCP_SCHEMA_BYTES_MAX:
        return "schema_broken, its schema is too large"
    if _leads_outside(schema):
        return "schema_broken, its schema refers to another one"
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError):
        return "schema_broken, its schema is not valid JSON Schema"
    return ""


def _leads_outside(schema: Any) -> bool:
    """Whether it refers to anything but parts of itself."""
    pending = [schema]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            place = found.get("$ref", found.get("$dynamicRef", "#"))
            if isinstance(place, str) and not place.startswith("#"):
                return True
            pending.extend(found.values())
        elif isinstance(found, list):
            pending.extend(found)
    return False


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    # An empty registry of one's own: references outside the schema are not fetched.
    registry: Any = Registry()
    return Draft202012Validator(schema, registry=registry)


def _text(answer: mcp_types.CallToolResult) -> str:
    """Structured content where there is some, else the text; what is neither is named."""
    if answer.structured_content is not None and not answer.is_error:
        content: Any = answer.structured_content
        if isinstance(content, dict) and set(content) == {"result"}:
            content = content["result"]
        return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    parts = [
        block.text if isinstance(block, mcp_types.TextContent) else f"[{block.type} left out]"
        for block in answer.content
    ]
    return "\n".join(parts)


def _is_about_schema(sentence: str, tool: str) -> bool:
    return sentence.startswith(
        (
            f"Invalid structured content returned by tool {tool}",
            f"Invalid schema for tool {tool}",
            f"Tool {tool} has an output schema",
        )
    )


def _first(error: BaseException) -> BaseException:
    """Sessions run in task groups; what counts is what happened in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _names(error: BaseException) -> str:
    found = _first(error)
    return type(found).__name__


async def _leave(client: Client[Any]) -> None:
    """Close it, whatever state it is in."""
    try:
        async with asyncio.timeout(MCP_CLOSE_S):
            await client.close()  # type: ignore[no-untyped-call]
    except Exception as error:
        _log.warning("a tool server did not close: %s", _names(error))
