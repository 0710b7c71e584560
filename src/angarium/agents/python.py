"""Agents declared in a module or a Python file."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from angarium.agents.contract import AgentKind, Terms
from angarium.agents.declared import Declared, Routing
from angarium.errors import Misconfigured

_KIND = ("name", "description", "open", "close", "run")


def declared_in(module: ModuleType) -> Declared:
    """What a module declares; it may hold no agent.

    Its `AGENTS` list counts, else every agent among its names; `ROUTING`, `EVALS` and
    `DISCOVERY` where it has them.
    """
    listed = getattr(module, "AGENTS", None)
    return Declared(
        tuple(listed if listed is not None else _agents_in(module)),
        getattr(module, "ROUTING", Routing()),
        tuple(getattr(module, "EVALS", ())),
        tuple(getattr(module, "DISCOVERY", ())),
    )


def load_module(place: str) -> ModuleType:
    """Import a dotted module name, or run a Python file. Raises Misconfigured."""
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
    except (Exception, SystemExit) as error:
        raise Misconfigured(f"agents {place!r} do not load: {error!r}") from error


def _agents_in(module: ModuleType) -> list[AgentKind]:
    unique = {id(value): value for value in vars(module).values() if _is_agent(value)}
    return list(unique.values())


def _is_agent(value: Any) -> bool:
    if isinstance(value, type) or not isinstance(getattr(value, "terms", None), Terms):
        return False
    return all(hasattr(value, name) for name in _KIND)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Misconfigured(f"agents file {str(path)!r} does not exist")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # What lies beside it; at the end, so that it hides nothing.
    name = f"angarium_agents_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Misconfigured(f"agents file {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # So that dataclasses and pickles in it find their module.
    spec.loader.exec_module(module)
    return module
