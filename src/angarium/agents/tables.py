"""A TOML table as arguments: what a Python signature takes, a table may say, and no more."""

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from pydantic import SecretStr

from angarium.errors import Misconfigured

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_ORDERED = (Sequence, tuple, list)


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file. `fail` and all that is raised name the file and the table."""

    path: Path
    name: str
    values: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)

    def fail(self, sentence: str) -> Misconfigured:
        where = f"{self.path}, [{self.name}]" if self.name else str(self.path)
        return Misconfigured(f"{where}: {sentence}")

    def inner(self, name: str, values: Any) -> "Table":
        """The table `name` in this one. Raises Misconfigured where `values` is none."""
        whole = f"{self.name}.{name}" if self.name else name
        inner = Table(self.path, whole, {}, self.environ)
        if not isinstance(values, dict):
            raise inner.fail(f"this is to be a table, not {_called(values)}")
        return Table(self.path, whole, values, self.environ)

    def arguments(
        self, hints: Mapping[str, Any], files: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Every value by its argument's name. A field `timeout_s` may also be written
        `timeout = "90s"`, a field `switch_margin` as `switch = { margin = 0.3 }`, a list of one
        as itself; `files` name paths, which are relative to the file. Raises Misconfigured."""
        found: dict[str, Any] = {}
        for key, value in self._flat(hints):
            name = key if key in hints else f"{key}_s"
            if name not in hints:
                raise self.fail(f"unknown key {key!r}{_meant(key, hints)}")
            if name in found:
                raise self.fail(f"{name!r} is said twice")
            found[name] = self._read(key, name, value, hints[name])
            if name in files and found[name]:
                found[name] = str(self.path.parent / found[name])
        return found

    def text(self, value: str) -> str:
        """The text with `${NAME}` replaced from the environment. Raises Misconfigured."""

        def find(match: re.Match[str]) -> str:
            if match[1] not in self.environ:
                raise self.fail(
                    f"the environment has no {match[1]}; set it, or remove ${{...}}"
                )
            return self.environ[match[1]]

        return _VARIABLE.sub(find, value)

    def _flat(self, hints: Mapping[str, Any]) -> list[tuple[str, Any]]:
        flat: list[tuple[str, Any]] = []
        for key, value in self.values.items():
            inside = isinstance(value, dict) and key not in hints
            if inside and any(name.startswith(f"{key}_") for name in hints):
                flat += [(f"{key}_{name}", each) for name, each in value.items()]
            else:
                flat.append((key, value))
        return flat

    def _read(self, key: str, name: str, value: Any, hint: Any) -> Any:
        if key != name or (name.endswith("_s") and isinstance(value, str)):
            value = self._seconds(key, value)
        if isinstance(value, str) and _is_ordered(hint):
            value = [value]
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise self.fail(f"{key}: {_sentence(error)}") from None
        except TypeError:
            raise self.fail(f"{key} can be set in Python only") from None

    def _seconds(self, key: str, value: Any) -> float:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise self.fail(f'{key}: a duration is text like "500ms", "60s", "5m" or "1h"')
        return float(match[1]) * _UNIT_S[match[2]]


def hints_of(make: Callable[..., Any]) -> dict[str, Any]:
    """What `make` takes by name, with its types; `**terms: Unpack[...]` counts with all its
    names. A dataclass is a `make`, too."""
    # Of a class those of its constructor, which is looked up by name on purpose.
    hints = typing.get_type_hints(vars(make)["__init__"] if isinstance(make, type) else make)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(make).parameters.items():
        hint = hints.get(name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= typing.get_type_hints(get_args(hint)[0]) if get_args(hint) else {}
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            found[name] = _without_secret(hint)
    return found


def _without_secret(hint: Any) -> Any:
    """In a file a secret is the name of an environment variable."""
    kept = [each for each in get_args(hint) if each is not SecretStr]
    if len(kept) == len(get_args(hint)):
        return hint
    return reduce(or_, kept)


def _is_ordered(hint: Any) -> bool:
    return get_origin(hint) in _ORDERED and str in get_args(hint)


def _meant(key: str, hints: Mapping[str, Any]) -> str:
    known = [*hints, *(name.removesuffix("_s") for name in hints)]
    near = get_close_matches(key, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _sentence(error: msgspec.ValidationError) -> str:
    said = str(error).replace(" - at `$", " at `").replace("Object", "the table")
    return f"{said[:1].lower()}{said[1:]}".replace(" at ``", "")


def _called(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "a list" if isinstance(value, list) else "a date")
