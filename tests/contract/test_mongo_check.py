"""What `angarium db check` finds in a MongoDB store."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.errors import SchemaMismatch
from angarium.storage.mongo import check as checking
from angarium.storage.mongo.check import check
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.schema import SCHEMA_VERSION, migrate
from angarium.storage.mongo.store import open_mongo
from angarium.storage.report import Report
from contract.everything import fill

Damage = Callable[[Any], Awaitable[Any]]
THERE = {"c": "talk"}


def found_after(uri: str, damage: Damage | None = None) -> Report:
    """What is found in a full store, once it is damaged."""

    async def scenario() -> Report:
        name = f"t_{uuid.uuid4().hex}"
        clock = ManualClock()
        store = await open_mongo(uri, clock, database=name)
        await fill(store.store, clock)
        await store.close()
        link = Link(uri, name)
        try:
            if damage is not None:
                await damage(link)
            return await check(uri, database=name)
        finally:
            await link.client.drop_database(name)
            await link.close()

    return asyncio.run(scenario())


def test_a_store_in_order_is_sound(mongo_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_PAGE", 2)
    report = found_after(mongo_uri)
    assert (report.conversations, report.messages, report.blobs) == (3, 17, 3)
    assert report.problems == ()
    assert report.orphans == ()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda link: link["messages"].delete_one({**THERE, "seq": 3}),
            "conversation talk: sequence 4, expected 3",
        ),
        (
            lambda link: link["messages"].delete_one({**THERE, "seq": 1}),
            "conversation talk: sequence 2, expected 1",
        ),
        (
            lambda link: link["messages"].delete_one({**THERE, "seq": 14}),
            "conversation talk: the head is 14, the newest message 13",
        ),
        (
            lambda link: link["messages"].update_one(
                {**THERE, "seq": 14}, {"$inc": {"cs": 10}}
            ),
            "device BOB00001 in talk: counter 17 at sequence 14, expected 7",
        ),
        (
            lambda link: link["conversations"].delete_one({"_id": "a second"}),
            "conversation a second: it has messages and is not there",
        ),
        (
            lambda link: link["messages"].delete_many({"c": "a second"}),
            "1 conversations have lost all their messages",
        ),
        (
            lambda link: link["blob_chunks"].delete_one({"blob": "begun"}),
            "attachment begun: a chunk is missing",
        ),
        (
            lambda link: link["blob_chunks"].update_one(
                {"blob": "begun"}, {"$set": {"bytes": b"other"}}
            ),
            "attachment begun: a chunk has changed",
        ),
    ],
)
def test_damage_is_named(mongo_uri: str, damage: Damage, says: str) -> None:
    assert found_after(mongo_uri, damage).problems == (says,)


def test_a_chunk_that_nothing_names_is_an_orphan_and_no_problem(mongo_uri: str) -> None:
    document = {"_id": "begun/0/left", "blob": "begun", "bytes": b"by a crash"}
    report = found_after(mongo_uri, lambda link: link["blob_chunks"].insert_one(document))
    assert report.problems == ()
    assert report.orphans == ("begun/0/left",)


def test_only_a_store_of_our_schema_is_checked_and_migration_makes_it(mongo_uri: str) -> None:
    async def scenario() -> None:
        name = f"t_{uuid.uuid4().hex}"
        link = Link(mongo_uri, name)
        try:
            with pytest.raises(SchemaMismatch, match="angarium db migrate"):
                await check(mongo_uri, database=name)
            assert await migrate(mongo_uri, database=name) == (0, SCHEMA_VERSION)
            assert (await check(mongo_uri, database=name)).sound
        finally:
            await link.client.drop_database(name)
            await link.close()

    asyncio.run(scenario())
