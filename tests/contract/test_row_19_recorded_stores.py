"""Row 19: a store as version 1 wrote it is read by this version, and goes on.

The recordings stay as they are: a later version brings them to its schema first, as
`angarium db migrate` does. `RECORD=1` writes those that do not exist.
"""

import asyncio
import json
import os
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bson import json_util

from angarium.clock import ManualClock
from angarium.model.message import Accepted
from angarium.storage.care import migrate as migrate_sqlite
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.schema import migrate as migrate_mongo
from angarium.storage.mongo.store import open_mongo
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import open_sqlite
from contract.everything import ADA, BLOB, fill, message

FOLDER = Path(__file__).parent.parent / "fixtures" / "version-1"
RECORDED_MS = 1_790_000_000_000
NAMES = ("talk", "a second", "empty")


async def seen(store: Any) -> dict[str, Any]:
    """What nodes see of a store that `fill` filled."""
    return {
        "heads": {name: head.sequence for name, head in (await store.log.heads(NAMES)).items()},
        "messages": [
            (m.sequence, m.key, m.device, m.cs, m.kind, m.to)
            for name in NAMES
            for m in await store.log.read(name, "BOB00001", 1, 99, 99)
        ],
        "conversations": await store.conversations.list_of(ADA),
        "receipts": await store.receipts.list_of("talk"),
        "lists": await store.directory.lists([ADA, "@bob:x"]),
        "keys": await store.directory.count_one_time_keys("ADA00001"),
        "records": await store.vault.read("gateway"),
        "turns": await store.turns.list_recent(9),
        "deliveries": await store.outbox.list_recent(9),
        "due": await store.outbox.list_due("twilio", 99, 9),
        "webhooks": [(w.event, w.raw) for w in await store.webhooks.list_open("twilio", 9)],
        "dead": [(w.event, w.raw) for w in await store.webhooks.list_dead(9)],
        "audit": [(a.at_ms, a.action, a.detail) for a in await store.audit.list(9)],
        "command": await store.commands.find("create", "key\nwith a line", RECORDED_MS),
        "blobs": [await store.blobs.find(name) for name in ("whole", "begun", "none")],
        "chunks": [await store.blobs.read_chunk("whole", n) for n in range(len(BLOB))],
    }


async def goes_on(store: Any) -> None:
    """Retries find what version 1 stored, the next message follows it, work is taken up."""
    again, new = await store.log.append([message(7), message(8)])
    assert isinstance(again, Accepted)
    assert isinstance(new, Accepted)
    assert (again.sequence, again.duplicate) == (13, True)
    assert (new.sequence, new.duplicate) == (15, False)
    fence = await store.leases.acquire("gateway", "node-3", 10, RECORDED_MS)
    assert fence.epoch == 3


# --- embedded ---------------------------------------------------------------------------------


def dump_folder(folder: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        sql = list(connection.iterdump())
    files = (path for path in sorted((folder / "blobs").rglob("*")) if path.is_file())
    return {
        "sql": sql,
        "files": {str(path.relative_to(folder)): path.read_bytes().hex() for path in files},
    }


def restore_folder(folder: Path, recorded: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.executescript("\n".join(recorded["sql"]))
    for name, content in recorded["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes.fromhex(content))


def test_an_embedded_store_of_version_1_is_read_and_goes_on(tmp_path: Path) -> None:
    clock = ManualClock(RECORDED_MS)

    async def scenario() -> None:
        fresh = await open_sqlite(tmp_path / "fresh", clock)
        await fill(fresh.store, clock)
        expected = await seen(fresh.store)
        await fresh.close()
        restore_folder(
            tmp_path / "old", recording("sqlite.json", lambda: dump_folder(tmp_path / "fresh"))
        )
        await asyncio.to_thread(migrate_sqlite, tmp_path / "old")
        opened = await open_sqlite(tmp_path / "old", clock)
        try:
            assert await seen(opened.store) == expected
            await goes_on(opened.store)
        finally:
            await opened.close()

    asyncio.run(scenario())


# --- MongoDB ----------------------------------------------------------------------------------


async def dump_database(uri: str, database: str) -> dict[str, Any]:
    link = Link(uri, database)
    try:
        names = sorted(await link.database.list_collection_names())
        found = {name: await link[name].find().to_list() for name in names}
        dumped: dict[str, Any] = json.loads(json_util.dumps(found))
        return dumped
    finally:
        await link.close()


Change = Callable[[dict[str, Any]], None]


def as_it_was(document: dict[str, Any]) -> None:
    pass


def as_a_newer_version_would(document: dict[str, Any]) -> None:
    document["added_later"] = {"by": "a newer version"}


async def restore_database(
    uri: str, database: str, recorded: dict[str, Any], change: Change
) -> None:
    link = Link(uri, database)
    try:
        for name, documents in json_util.loads(json.dumps(recorded)).items():
            for document in documents:
                change(document)
            if documents:
                await link[name].insert_many(documents)
    finally:
        await link.close()
    await migrate_mongo(uri, database=database)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("change", [as_it_was, as_a_newer_version_would])
def test_a_database_of_another_version_is_read_and_goes_on(
    change: Change, mongo_uri: str, fresh_mongo: Callable[..., Awaitable[Any]]
) -> None:
    clock = ManualClock(RECORDED_MS)

    async def scenario() -> None:
        fresh = await fresh_mongo(mongo_uri, clock)
        await fill(fresh.store, clock)
        expected = await seen(fresh.store)
        dumped = await dump_database(mongo_uri, fresh._link.name)
        await fresh.close()
        database = f"t_{uuid.uuid4().hex}"
        recorded = recording("mongo.json", lambda: dumped)
        await restore_database(mongo_uri, database, recorded, change)
        opened = await open_mongo(mongo_uri, clock, database=database)
        try:
            assert await seen(opened.store) == expected
            await goes_on(opened.store)
        finally:
            await opened._link.client.drop_database(database)
            await opened.close()

    asyncio.run(scenario())


def recording(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    path = FOLDER / name
    if os.environ.get("RECORD") and not path.exists():
        path.write_text(json.dumps(make(), indent=1) + "\n")
    found: dict[str, Any] = json.loads(path.read_text())
    return found
