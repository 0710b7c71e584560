"""Collections, indexes, validation and shard keys of the MongoDB store."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from bson import ObjectId
from pymongo import AsyncMongoClient

from angarium.clock import ManualClock
from angarium.errors import AngariumError, Malformed, Misconfigured, SchemaMismatch
from angarium.storage.mongo.schema import INDEXES, SHARD_KEYS, migrate, upgrade
from angarium.storage.mongo.store import open_mongo


@pytest.fixture
def with_mongo(mongo_uri: str, fresh_mongo: Any) -> Callable[..., None]:
    """Runs a scenario over a fresh MongoStore."""

    async def run(scenario: Any) -> None:
        opened = await fresh_mongo(mongo_uri, ManualClock())
        try:
            await scenario(opened)
        finally:
            await opened.close()

    return lambda scenario: asyncio.run(run(scenario))


def test_migration_is_idempotent_and_safe_from_several_nodes_at_once(mongo_uri: str) -> None:
    async def scenario() -> None:
        name = f"t_{ObjectId()}"
        client: AsyncMongoClient[Any] = AsyncMongoClient(mongo_uri)
        try:
            await asyncio.gather(*(migrate(mongo_uri, database=name) for _ in range(3)))
            assert await migrate(mongo_uri, database=name) == (1, 1)
            there = set(await client[name].list_collection_names())
            assert set(SHARD_KEYS) <= there
            for collection, indexes in INDEXES.items():
                found = await client[name][collection].index_information()
                assert {index.name for index in indexes} <= set(found)
                unique = {n for n, options in found.items() if options.get("unique")}
                assert unique == {index.name for index in indexes if index.unique}
        finally:
            await client.drop_database(name)
            await client.close()

    asyncio.run(scenario())


def test_a_store_of_another_version_is_not_opened(with_mongo: Any, mongo_uri: str) -> None:
    async def scenario(opened: Any) -> None:
        link = opened._link
        await link["meta"].update_one({"_id": "schema"}, {"$set": {"version": 9}})
        with pytest.raises(SchemaMismatch, match="newer Angarium"):
            await open_mongo(mongo_uri, ManualClock(), database=link.name)
        with pytest.raises(SchemaMismatch, match="newer Angarium"):
            await upgrade(link)

    with_mongo(scenario)


def test_an_index_of_ours_with_other_options_is_a_mismatch(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        records = opened._link["records"]
        await records.drop_index("by_scope_key")
        await records.create_index([("scope", 1), ("key", 1)], name="by_scope_key")
        with pytest.raises(SchemaMismatch, match="db migrate"):
            await upgrade(opened._link)

    with_mongo(scenario)


def test_a_document_of_the_wrong_shape_is_refused_by_the_server(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        with pytest.raises(Malformed):
            await opened._link.insert("messages", {"_id": ObjectId(), "c": "c", "seq": 0})

    with_mongo(scenario)


@pytest.mark.parametrize("uri", ["mongodb://", "mongodb://host:port", "http://127.0.0.1"])
def test_an_unusable_address_is_a_misconfiguration(uri: str) -> None:
    async def scenario() -> None:
        with pytest.raises(AngariumError) as raised:
            await open_mongo(uri, ManualClock())
        assert type(raised.value) is Misconfigured

    asyncio.run(scenario())
