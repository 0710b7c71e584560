"""Row 19: what version 1 said to other nodes and kept sealed, this version still reads.

Recorded once and never again: `RECORD=1` adds only what has no record yet. A test that fails
here means that a node of this version does not understand the node beside it that is not
upgraded yet, or cannot take up what that one left: give the new field a default, at the end.
"""

import dataclasses
import importlib
import json
import os
import pkgutil
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import angarium
from angarium.bus.contract import (
    Appended,
    DevicesChanged,
    Displaced,
    Ephemeral,
    Event,
    Joined,
    Left,
)
from angarium.bus.wire import pack_batch, pack_event, unpack_batch
from angarium.model.message import StoredMessage

FOLDER = Path(__file__).parent.parent / "fixtures" / "version-1"
MESSAGE = StoredMessage("c", 3, 7, "k", "@ann:test", "ANN1", 5, "message", 99, {"B": b"x"})
EVENTS: dict[str, Event] = {
    "appended": Appended("c", 3, 7, ("@ann:test", "@bob:test")),
    "appended with its message": Appended("c", 3, 7, ("@ann:test",), (MESSAGE,)),
    "ephemeral": Ephemeral("c", ("@ann:test",), b"frame", "BOB1"),
    "ephemeral to all": Ephemeral("c", ("@ann:test",), b"frame", None),
    "devices changed": DevicesChanged("@ann:test"),
    "joined": Joined("c", "@ann:test"),
    "left": Left("c", "@ann:test"),
    "displaced": Displaced("@ann:test", "ANN1", 4),
}

# Where structs are kept, or sealed for devices of another version.
KEEPERS = ("agents", "bridge", "sdk", "e2ee", "model.webhook", "kms.local")
NESTED = {"Call", "Question", "FileRef", "_Content", "_Payload", "_Device", "_Listed", "_Key"}


def keepers() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(angarium.__path__, "angarium."):
        part = found.name.removeprefix("angarium.")
        if any(part == keeper or part.startswith(f"{keeper}.") for keeper in KEEPERS):
            yield importlib.import_module(found.name)


def kept() -> dict[str, type[msgspec.Struct]]:
    """Every struct of the product that is written somewhere, by where it is defined."""
    return {
        f"{module.__name__}.{name}": kind
        for module in keepers()
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == module.__name__
        and name not in NESTED
    }


def sample(kind: Any) -> Any:
    """A value of this type in which no field is its default."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return sample(next(one for one in inner if one is not types.NoneType))
    if origin is typing.Literal:
        return inner[-1]
    if origin is list:
        return [sample(inner[0])]
    if origin is dict:
        return {sample(inner[0]): sample(inner[1])}
    if origin is tuple:
        return tuple(sample(one) for one in inner if one is not Ellipsis)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{name: sample(hints[name]) for name in kind.__struct_fields__})
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(
            **{each.name: sample(hints[each.name]) for each in dataclasses.fields(kind)}
        )
    plain = {
        str: "text",
        int: 7,
        float: 0.5,
        bytes: b"\x00\xff",
        bool: True,
        Any: {"any": [1, "x"]},
    }
    return plain[kind]


def record(name: str, found: dict[str, str]) -> dict[str, str]:
    path = FOLDER / name
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if os.environ.get("RECORD"):
        path.write_text(json.dumps({**found, **known}, indent=1) + "\n")
    return known


BUS = record(
    "bus.json", {name: pack_batch(b"me", [pack_event(e)]).hex() for name, e in EVENTS.items()}
)
RECORDS = record(
    "records.json",
    {name: msgspec.msgpack.encode(sample(kind)).hex() for name, kind in kept().items()},
)


def test_every_kind_of_event_and_of_kept_struct_is_recorded() -> None:
    assert set(EVENTS) <= set(BUS)
    assert {type(event) for event in EVENTS.values()} == set(typing.get_args(Event))
    assert set(kept()) <= set(RECORDS)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_of_version_1_is_heard(name: str) -> None:
    assert unpack_batch(bytes.fromhex(BUS[name])) == (b"me", [EVENTS[name]], 0)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_to_which_a_newer_version_added_something_is_heard(name: str) -> None:
    said = msgspec.msgpack.decode(pack_event(EVENTS[name]))
    added = msgspec.msgpack.encode([*said, "added later"])
    payload = pack_batch(b"newer", [added])
    assert unpack_batch(payload) == (b"newer", [EVENTS[name]], 0)


@pytest.mark.parametrize("name", RECORDS)
def test_what_version_1_kept_is_read_as_it_was(name: str) -> None:
    raw = bytes.fromhex(RECORDS[name])
    read = msgspec.to_builtins(
        msgspec.msgpack.decode(raw, type=kept()[name]), builtin_types=(bytes,)
    )
    then = msgspec.msgpack.decode(raw)
    if isinstance(then, list):
        assert [plain(each) for each in read[: len(then)]] == plain(then)
    else:
        assert {field: plain(read[field]) for field in then} == plain(then)


@pytest.mark.parametrize("name", RECORDS)
def test_what_a_newer_version_keeps_is_read_without_what_it_added(name: str) -> None:
    raw = bytes.fromhex(RECORDS[name])
    then = msgspec.msgpack.decode(raw)
    newer = [*then, "added"] if isinstance(then, list) else {**then, "added_later": 1}
    kind = kept()[name]
    fields = len(kind.__struct_fields__)
    if isinstance(then, list) and len(then) < fields:
        return  # This version has fields that version 1 had not: nothing can be added before.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(newer), type=kind) == (
        msgspec.msgpack.decode(raw, type=kind)
    )


def plain(value: Any) -> Any:
    """Lists for tuples, all the way down."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
