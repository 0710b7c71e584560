"""What an LLM agent is made of, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from angarium.agents.mcp import MCP
from angarium.agents.toolbox import Tool


@dataclass(frozen=True, slots=True)
class Outline:
    """`models`: by the names people know them by; what is no text is a model itself.
    `adopted`: an agent of the framework, which then brings model, prompt and tools."""

    name: str
    prompt: str = ""
    models: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    servers: tuple[MCP, ...] = ()
    handoffs: tuple[str, ...] = ()
    max_tool_calls: int = 0
    budget_usd: float = 0.0
    budget_tokens: int = 0
    adopted: Any = None
