"""The kinds of agents by the word that files and annotations have for them."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from angarium.agents.contract import AgentKind
from angarium.errors import Misconfigured

Make = Callable[..., AgentKind]
# Imported when something names them: each may need its own extra.
KINDS: Mapping[str, str] = {
    "function": "angarium.agents.agent:Agent",
    "llm": "angarium.agents.kinds.llm:LLM",
    "openai": "angarium.agents.remote:Remote.openai",
    "cloudevents": "angarium.agents.remote:Remote.cloudevents",
    "a2a": "angarium.agents.remote:Remote.a2a",
}


def load_kind(place: str) -> Make:
    """The constructor at `module:name`. Raises Misconfigured where it cannot be imported."""
    module, _, names = place.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        raise Misconfigured(f"agents of this type need {error.name!r}, not installed") from None
    for name in names.split("."):
        found = getattr(found, name)
    make: Make = found
    return make
