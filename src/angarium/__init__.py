"""Angarium: messages between people and AI agents. `from angarium import Agent` starts here.

Nothing is imported until it is asked for, so that `import angarium` costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Agent": "angarium.agents.agent",
    "ask": "angarium.agents.agent",
    "handoff": "angarium.agents.agent",
    "skill": "angarium.agents.agent",
    "Done": "angarium.agents.contract",
    "Handoff": "angarium.agents.contract",
    "Media": "angarium.agents.contract",
    "Skill": "angarium.agents.contract",
    "Status": "angarium.agents.contract",
    "Text": "angarium.agents.contract",
    "Turn": "angarium.agents.contract",
    "Remote": "angarium.agents.remote",
    "LLM": "angarium.agents.kinds.llm",
    "MCP": "angarium.agents.mcp",
    "Tool": "angarium.agents.toolbox",
    "ToolContext": "angarium.agents.toolbox",
    "tool": "angarium.agents.toolbox",
    "EvalCase": "angarium.agents.declared",
    "Routing": "angarium.agents.declared",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("angarium")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'angarium' has no attribute {name!r}")
