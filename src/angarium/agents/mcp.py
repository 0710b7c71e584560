"""A tool server that speaks the Model Context Protocol, as a developer declares it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from angarium.agents.approvals import matches
from angarium.agents.contract import Effect
from angarium.agents.toolbox import EFFECTS
from angarium.errors import Misconfigured
from angarium.limits import MCP_CALL_S


class MCP:
    """The tools of an MCP server, by streamable HTTP (a URL) or stdio (a command).

        MCP("https://mcp.shop/mcp", lazy=True, approve=["refund_*"])
        MCP(["python", "orders.py"], effect="read")

    `lazy`: it is connected at the first use, and its tools are hidden from the model until it
    searches for them. `only` and `approve` are patterns of tool names: which may be used at
    all, and which only after the person approved the exact arguments. `effect` holds for all
    its tools; without it the server's own hints count, and `once` where it gives none. `name`
    is how people and logs know it; `log` is a file for what a command writes to its standard
    error, which is dropped otherwise. Raises Misconfigured.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        *,
        name: str = "",
        lazy: bool = False,
        only: Sequence[str] = (),
        approve: Sequence[str] = (),
        effect: Effect | None = None,
        headers: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        log: str = "",
        call_s: float = MCP_CALL_S,
    ) -> None:
        if effect is not None and effect not in EFFECTS:
            raise Misconfigured(f"effect is one of {', '.join(EFFECTS)}, not {effect!r}")
        self.url, self.command = _place(server)
        self.name = name or (urlsplit(self.url).hostname or "" if self.url else "")
        self.name = self.name or self.command[-1].rpartition("/")[2]
        self.lazy, self.only, self.approve = lazy, tuple(only), tuple(approve)
        self.effect: Effect | None = effect
        self.headers, self.env, self.log = dict(headers or {}), dict(env or {}), log
        self.call_s = call_s

    def allows(self, tool: str) -> bool:
        return not self.only or matches(tool, self.only)

    def wants_approval(self, tool: str) -> bool:
        return matches(tool, self.approve)

    def effect_of(self, annotations: Any) -> Effect:
        """What is declared here; else what the server hints at, which it may get wrong; else
        the careful one."""
        if self.effect is not None:
            return self.effect
        if getattr(annotations, "read_only_hint", None) is True:
            return "read"
        return "keyed" if getattr(annotations, "idempotent_hint", None) is True else "once"


def _place(server: str | Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Its URL, or the words of its command."""
    if isinstance(server, str) and server.startswith(("http://", "https://")):
        if not urlsplit(server).hostname:
            raise Misconfigured(f"MCP server {server!r}: the URL has no host")
        return server, ()
    words = tuple(shlex.split(server) if isinstance(server, str) else server)
    if not words:
        raise Misconfigured("an MCP server needs a URL or a command")
    return "", words
