"""Which agents there are: loaded once from a module or a file."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from angarium.agents.agent import Agent
from angarium.agents.contract import AgentKind
from angarium.agents.declared import Declared, Routing
from angarium.errors import Misconfigured


class Registry:
    """Agents by name, in their order. Raises Misconfigured when it makes no sense."""

    def __init__(self, agents: Iterable[AgentKind] | Declared, default: str = "") -> None:
        self.declared = agents if isinstance(agents, Declared) else Declared(tuple(agents))
        self._agents: dict[str, AgentKind] = {}
        for agent in self.declared.agents:
            if agent.name in self._agents:
                raise Misconfigured(f"two agents are named {agent.name!r}; rename one")
            if isinstance(agent, Agent) and not agent.ready:
                raise Misconfigured(f"agent {agent.name!r} has no function; use @agent.on_turn")
            self._agents[agent.name] = agent
        if not self._agents:
            raise Misconfigured("there is no agent; define one with Agent(name, description)")
        self.default = default or next(iter(self._agents))
        if self.default not in self._agents:
            known = ", ".join(self._agents)
            raise Misconfigured(f"default_agent {default!r} is not among the agents: {known}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._agents)

    def find(self, name: str) -> AgentKind | None:
        return self._agents.get(name)

    def __iter__(self) -> Iterator[AgentKind]:
        return iter(self._agents.values())


def load_registry(place: str, default: str = "") -> Registry:
    """The agents of `place`, a dotted module name or the path of a Python file.

    A module's `AGENTS` list counts, else every `Agent` among its names; `ROUTING` and `EVALS`
    where it has them. Raises Misconfigured.
    """
    module = _load(place)
    listed = getattr(module, "AGENTS", None)
    found = listed if listed is not None else _agents_in(module)
    routing = getattr(module, "ROUTING", Routing())
    evals = tuple(getattr(module, "EVALS", ()))
    try:
        return Registry(Declared(tuple(found), routing, evals), default)
    except Misconfigured as error:
        raise Misconfigured(f"agents from {place!r}: {error}") from None


def _agents_in(module: ModuleType) -> list[AgentKind]:
    unique = {id(value): value for value in vars(module).values() if isinstance(value, Agent)}
    return list(unique.values())


def _load(place: str) -> ModuleType:
    is_file = place.endswith(".py") or "/" in place
    try:
        return _load_file(Path(place)) if is_file else importlib.import_module(place)
    except Misconfigured:
        raise
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"agents {place!r}: no module named {error.name!r}; give a module or a .py file"
        ) from None
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise Misconfigured(f"agents {place!r} do not load: {where}: {error.msg}") from None
    except Exception as error:
        raise Misconfigured(f"agents {place!r} do not load: {error!r}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Misconfigured(f"agents file {str(path)!r} does not exist")
    name = f"angarium_agents_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Misconfigured(f"agents file {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # So that dataclasses and pickles in it find their module.
    spec.loader.exec_module(module)
    return module
