import asyncio
from types import SimpleNamespace

import pytest

from angarium.agents.mcp import MCP
from angarium.agents.toolbox import Tool, tool
from angarium.errors import Misconfigured


def test_a_tool_has_its_functions_name_and_words_and_can_be_called_itself():
    @tool(effect="keyed", requires_approval=True)
    async def refund(ctx, cents: int) -> str:
        """Give money back."""
        return f"{ctx} {cents}"

    assert isinstance(refund, Tool)
    assert (refund.name, refund.description) == ("refund", "Give money back.")
    assert (refund.effect, refund.requires_approval) == ("keyed", True)
    assert asyncio.run(refund("ctx", cents=5)) == "ctx 5"


def test_a_tool_whose_effect_is_not_said_runs_at_most_once():
    @tool()
    async def fax(ctx) -> str:
        return ""

    assert fax.effect == "once"


def test_what_cannot_be_a_tool_is_refused():
    with pytest.raises(Misconfigured, match="read, keyed, once"):
        tool(effect="twice")
    with pytest.raises(Misconfigured, match="async def"):

        @tool()
        def plain(ctx) -> str:
            return ""

    with pytest.raises(Misconfigured, match="ctx"):

        @tool()
        async def bare() -> str:
            return ""


def test_a_server_is_a_url_or_a_command():
    assert MCP("https://mcp.shop/mcp").name == "mcp.shop"
    assert MCP("python orders.py --quick").command == ("python", "orders.py", "--quick")
    assert MCP(["/usr/bin/orders"]).name == "orders"
    assert MCP("https://mcp.shop/mcp", name="shop").name == "shop"


def test_a_servers_hints_count_where_nothing_is_declared_and_once_is_the_careful_one():
    def hints(**given):
        return SimpleNamespace(**{"read_only_hint": None, "idempotent_hint": None} | given)

    server = MCP("https://a.example/mcp")
    assert server.effect_of(None) == "once"
    assert server.effect_of(hints()) == "once"
    assert server.effect_of(hints(idempotent_hint=True)) == "keyed"
    assert server.effect_of(hints(read_only_hint=True)) == "read"
    declared = MCP("https://a.example/mcp", effect="once")
    assert declared.effect_of(hints(read_only_hint=True)) == "once"


def test_patterns_say_which_tools_may_be_used_and_which_need_approval():
    server = MCP("https://a.example/mcp", only=["order_*"], approve=["order_refund"])
    assert server.allows("order_status")
    assert not server.allows("delete_all")
    assert server.wants_approval("order_refund")
    assert not server.wants_approval("order_status")
    assert MCP("https://a.example/mcp").allows("anything")
