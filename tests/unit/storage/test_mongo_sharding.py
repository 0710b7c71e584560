"""What a router of a sharded cluster is told. No router runs in the tests."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from pymongo.errors import OperationFailure

from angarium.errors import SchemaMismatch
from angarium.storage.mongo.schema import INDEXES, SHARD_KEYS
from angarium.storage.mongo.sharding import shard, shard_commands

KEYS = {"messages": ("c",), "webhooks": ("channel", "event")}
SCALING = Path(__file__).parents[3] / "docs/explanation/scaling.md"


class Router:
    """Answers `hello` and remembers the rest."""

    def __init__(self, hello: dict[str, Any], fails: dict[str, int] | None = None) -> None:
        self.hello, self.fails = hello, fails or {}
        self.told: list[dict[str, Any]] = []
        self.client, self.name = SimpleNamespace(admin=self), "angarium"

    async def command(self, command: Any) -> dict[str, Any]:
        if command == "hello":
            return self.hello
        self.told.append(command)
        if code := self.fails.get(command.get("shardCollection", "")):
            raise OperationFailure("", code)
        return {"ok": 1}

    async def call(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        return await operation()


def spread(router: Any) -> bool:
    return asyncio.run(shard(router, KEYS))


def test_a_router_is_told_each_collection_and_its_ranged_key() -> None:
    router = Router({"msg": "isdbgrid"})
    assert spread(router)
    assert spread(router)  # Again, as each migration does.
    told = [
        {"enableSharding": "angarium"},
        {"shardCollection": "angarium.messages", "key": {"c": 1}},
        {"shardCollection": "angarium.webhooks", "key": {"channel": 1, "event": 1}},
    ]
    assert router.told == told * 2


@pytest.mark.parametrize("hello", [{}, {"setName": "rs0"}])
def test_a_replica_set_and_a_single_server_are_told_nothing(hello: dict[str, Any]) -> None:
    router = Router(hello)
    assert not spread(router)
    assert router.told == []


def test_a_collection_spread_by_another_key_is_a_mismatch_that_names_it() -> None:
    router = Router({"msg": "isdbgrid"}, {"angarium.messages": 23})
    with pytest.raises(SchemaMismatch, match="`messages` is sharded by another key"):
        spread(router)


def test_any_other_failure_is_not_swallowed() -> None:
    with pytest.raises(OperationFailure):
        spread(Router({"msg": "isdbgrid"}, {"angarium.messages": 13}))


def test_every_collection_has_an_index_that_begins_with_its_shard_key() -> None:
    for name, key in SHARD_KEYS.items():
        led = [index for index in INDEXES.get(name, ()) if index.fields[: len(key)] == key]
        assert key == ("_id",) or led, name
    assert len(shard_commands("angarium", SHARD_KEYS)) == len(SHARD_KEYS) + 1


def test_the_page_on_scaling_names_every_collection_beside_its_key() -> None:
    rows = [line for line in SCALING.read_text().splitlines() if line.startswith("| `")]
    for name, key in SHARD_KEYS.items():
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        assert all(f"`{field}`" in row.split("|")[2] for field in key), name
