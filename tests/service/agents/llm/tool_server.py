"""An MCP server for tests, built with the official SDK: by stdio, or by streamable HTTP on the
port given. What its tools do goes to the file TOOL_LOG."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server import Server
from mcp.server.stdio import stdio_server

LOG = Path(os.environ.get("TOOL_LOG", os.devnull))
ORDER = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
NOTHING = {"type": "object", "properties": {}}
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def tool(name: str, schema: Any = NOTHING, output: Any = None, **hints: bool) -> types.Tool:
    return types.Tool(
        name=name,
        description=f"The tool {name}.",
        input_schema=schema,
        output_schema=output,
        annotations=types.ToolAnnotations(**hints) if hints else None,
    )


TOOLS = [
    tool("order_status", ORDER, read_only_hint=True),
    tool("refund", ORDER, idempotent_hint=True),
    tool("send_fax", ORDER),
    tool("vanish"),
    tool("vanish_keyed", idempotent_hint=True),
    tool("huge"),
    tool("garbage"),
    tool("refuse"),
    tool("lie", NOTHING, COUNT),
    tool("bent", {"type": "object", "properties": {"x": {"type": "nonsense"}}}),
    tool("far", {"type": "object", "properties": {"x": {"$ref": "https://a.invalid/x"}}}),
]


def note(what: str) -> None:
    with LOG.open("a") as log:
        log.write(what + "\n")


async def list_tools(_ctx: Any, _params: Any) -> types.ListToolsResult:
    note("list")
    return types.ListToolsResult(tools=TOOLS)


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    name, given = params.name, params.arguments or {}
    key = (dict(ctx.meta or {})).get("angarium/idempotencyKey", "")
    note(f"{name} {json.dumps(given)} {key}")
    if name.startswith("vanish"):
        os._exit(1)
    if name == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe no JSON\n{]\n")
        sys.stdout.buffer.flush()
    if name == "lie":
        return types.CallToolResult(content=[], structured_content={"n": "many"})
    said = {
        "order_status": f"{given.get('order')} is on its way",
        "huge": "x" * 10_000_000,
        "refuse": "the shop is closed",
    }
    text = types.TextContent(type="text", text=said.get(name, f"{name} done"))
    return types.CallToolResult(content=[text], is_error=name == "refuse")


server: Server[Any] = Server("orders", on_list_tools=list_tools, on_call_tool=call_tool)


async def by_stdio() -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def by_http(port: int) -> None:
    import uvicorn

    app = server.streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        by_http(int(sys.argv[1]))
    else:
        asyncio.run(by_stdio())
