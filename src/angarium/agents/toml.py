"""Agents, routing, discovery and trials declared in a TOML file, with Python's own fields."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from angarium.agents.contract import AgentKind
from angarium.agents.declared import Declared, EvalCase, Kubernetes, Routing
from angarium.agents.named import KINDS, Make, load_kind
from angarium.agents.python import declared_in, load_module
from angarium.agents.tables import Table, hints_of
from angarium.agents.terms import check_name
from angarium.errors import Misconfigured

_MCP = "angarium.agents.mcp:MCP"
_TOP = ("code", "agents", "routing", "discovery", "eval")
_PATHS = frozenset({"model_path", "token_file", "ca_file"})
_SECRETS = ("api_key", "token", "headers", "env")  # `${NAME}` is read from the environment.


def load_toml(path: Path, environ: Mapping[str, str] = os.environ) -> Declared:
    """What the file declares, together with the Python that its `code` names.

    Raises Misconfigured with the file, the table and what to change.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"agents file {str(path)!r} does not exist") from None
    except OSError as error:
        raise Misconfigured(f"agents file {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"agents file {str(path)!r} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"agents file {str(path)!r} is not TOML: {error}") from None
    return Reading(Table(path, "", values, environ)).declared()


class Reading:
    """One reading of one file; modules that it names several times are loaded once."""

    def __init__(self, top: Table) -> None:
        self._top, self._folder = top, top.path.parent
        self._modules: dict[str, ModuleType] = {}

    def declared(self) -> Declared:
        """Raises Misconfigured."""
        top = self._top
        top.arguments(dict.fromkeys(_TOP, Any))  # No other keys.
        own = self._agents()
        code = top.arguments({**dict.fromkeys(_TOP, Any), "code": list[str]}).get("code", [])
        more = [declared_in(self._module(place)) for place in code]
        return Declared(
            (*own, *(agent for each in more for agent in each.agents)),
            self._routing(more),
            (*self._evals(), *(trial for each in more for trial in each.evals)),
            (*self._discovery(), *(found for each in more for found in each.discovery)),
        )

    # --- agents -------------------------------------------------------------------------------

    def _agents(self) -> list[AgentKind]:
        agents = self._top.inner("agents", self._top.values.get("agents", {}))
        return [
            self._agent(name, agents.inner(name, values))
            for name, values in agents.values.items()
        ]

    def _agent(self, name: str, table: Table) -> AgentKind:
        values = dict(table.values)
        kind = values.pop("type", "")
        if kind not in KINDS:
            raise table.fail(f"type is one of {', '.join(KINDS)}, not {kind!r}")
        make = load_kind(KINDS[kind])
        hints = {key: hint for key, hint in hints_of(make).items() if key != "name"}
        special = self._special(kind, table, values, hints)
        table = Table(table.path, table.name, values, table.environ)
        given = table.arguments(hints, _PATHS) | special
        for key in _SECRETS:
            if key in given:
                given[key] = _filled(table, given[key])
        given.setdefault("description", "")
        missing = [key for key in _required(make) if key not in given and key != "name"]
        if missing:
            raise table.fail(f"{missing[0]!r} is missing")
        function = given.pop("function", None)
        try:
            agent = make(check_name(name), **given)
            if function is not None:
                agent.on_turn(function)  # type: ignore[attr-defined]
        except (Misconfigured, TypeError, ValueError) as error:
            raise table.fail(str(error)) from None
        return agent

    def _special(
        self, kind: str, table: Table, values: dict[str, Any], hints: dict[str, Any]
    ) -> dict[str, Any]:
        """Takes out of `values` what is said otherwise than in Python; returns arguments."""
        found: dict[str, Any] = {}
        hints["description"] = str
        if "skills" in values:
            values["skills"] = _skills(table, values["skills"])
        if kind == "function":
            found["function"] = self._named(table, "function", values.pop("function", None))
        if kind == "llm":
            hints["model"] = str | list[str]
            tools = values.pop("tools", [])
            if not isinstance(tools, list):
                raise table.fail('tools is a list like ["tools:refund"]')
            found["tools"] = [self._named(table, "tools", each) for each in tools]
            servers = table.inner("mcp", values.pop("mcp", {}))
            found["tools"] += [
                _server(name, servers.inner(name, each))
                for name, each in servers.values.items()
            ]
        if "prompt_file" in values:
            if "prompt" in values:
                raise table.fail("say prompt or prompt_file, not both")
            found["prompt"] = self._prompt(table, values.pop("prompt_file"))
        return found

    def _prompt(self, table: Table, name: Any) -> str:
        if not isinstance(name, str):
            raise table.fail("prompt_file is the path of a text file")
        try:
            return (self._folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise table.fail(f"prompt_file {name!r} cannot be read: {why}") from None

    def _named(self, table: Table, key: str, value: Any) -> Any:
        """The object that `module:name` means."""
        place, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
        if not (place and name):
            raise table.fail(f'{key} names a Python object, like "tools:refund"')
        found = getattr(self._module(place), name, None)
        if found is None:
            raise table.fail(f"{key}: {place!r} has no {name!r}")
        return found

    def _module(self, place: str) -> ModuleType:
        """A module beside the file counts before an installed one."""
        if place not in self._modules:
            beside = self._folder / (place if place.endswith(".py") else f"{place}.py")
            is_file = place.endswith(".py") or beside.is_file()
            self._modules[place] = load_module(str(beside) if is_file else place)
        return self._modules[place]

    # --- the rest -----------------------------------------------------------------------------

    def _routing(self, more: list[Declared]) -> Routing:
        if "routing" not in self._top.values:
            spoken = [each.routing for each in more if each.routing != Routing()]
            return spoken[0] if spoken else Routing()
        table = self._top.inner("routing", self._top.values["routing"])
        return Routing(**table.arguments(hints_of(Routing), _PATHS))

    def _discovery(self) -> list[Kubernetes]:
        table = self._top.inner("discovery", self._top.values.get("discovery", {}))
        table.arguments({"kubernetes": Any})
        if "kubernetes" not in table.values:
            return []
        inner = table.inner("kubernetes", table.values["kubernetes"])
        return [Kubernetes(**inner.arguments(hints_of(Kubernetes), _PATHS))]

    def _evals(self) -> list[EvalCase]:
        cases = self._top.values.get("eval", [])
        if not isinstance(cases, list):
            raise self._top.fail("write each trial as [[eval]]")
        hints, found = hints_of(EvalCase), []
        for number, case in enumerate(cases, 1):
            table = self._top.inner(f"eval {number}", case)
            given = table.arguments(hints)
            if not given.get("say"):
                raise table.fail("'say' is missing")
            found.append(EvalCase(**given))
        return found


def _required(make: Make) -> list[str]:
    import inspect

    return [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]


def _skills(table: Table, value: Any) -> Any:
    """`skills.refund = ["my money back"]` is short for a skill with examples alone."""
    if not isinstance(value, dict):
        return value
    return [
        {"name": name, "examples": each}
        if isinstance(each, list)
        else {"name": name, **table.inner(f"skills.{name}", each).values}
        for name, each in value.items()
    ]


def _server(name: str, table: Table) -> Any:
    make: Any = load_kind(_MCP)
    values = dict(table.values)
    places = [values.pop(key) for key in ("url", "command") if key in values]
    if len(places) != 1:
        raise table.fail("say where the server is: either url or command")
    hints = {key: hint for key, hint in hints_of(make).items() if key != "server"}
    rest = Table(table.path, table.name, values, table.environ)
    given = {"name": name} | rest.arguments(hints)
    for key in _SECRETS:
        if key in given:
            given[key] = _filled(table, given[key])
    try:
        return make(places[0], **given)
    except (Misconfigured, TypeError, ValueError) as error:
        raise table.fail(str(error)) from None


def _filled(table: Table, value: Any) -> Any:
    """A text, or every text of a table, with the environment's variables in it."""
    if isinstance(value, str):
        return table.text(value)
    if isinstance(value, Mapping):
        return {key: _filled(table, each) for key, each in value.items()}
    return value
