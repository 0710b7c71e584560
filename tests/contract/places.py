"""Places where stores lie, one of each adapter, as the two ends of a copy."""

import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angarium.clock import ManualClock
from angarium.storage.copying import copy
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.store import open_mongo
from angarium.storage.mongo.transfer import MongoTransfer
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import open_sqlite
from angarium.storage.sqlite.transfer import SqliteTransfer


class Folder:
    """A place for an embedded store."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / uuid.uuid4().hex

    async def open(self, clock: ManualClock) -> Any:
        return await open_sqlite(self.path, clock)

    def transfer(self, clock: ManualClock) -> SqliteTransfer:
        return SqliteTransfer(self.path, clock)

    async def change(self) -> None:
        """Change one byte of one message, as no node would."""
        with closing(sqlite3.connect(self.path / FILE_NAME)) as connection:
            connection.execute("UPDATE messages SET digest = X'00' WHERE seq = 5")
            connection.commit()

    async def remove(self) -> None:
        pass


class Database:
    """A place for a store on MongoDB."""

    def __init__(self, uri: str) -> None:
        self.uri, self.name = uri, f"t_{uuid.uuid4().hex}"

    async def open(self, clock: ManualClock) -> Any:
        return await open_mongo(self.uri, clock, database=self.name)

    def transfer(self, clock: ManualClock) -> MongoTransfer:
        return MongoTransfer(self.uri, database=self.name)

    async def change(self) -> None:
        link = Link(self.uri, self.name)
        await link["messages"].update_one({"seq": 5}, {"$set": {"hash": b"\x00"}})
        await link.close()

    async def remove(self) -> None:
        link = Link(self.uri, self.name)
        await link.client.drop_database(self.name)
        await link.close()


Place = Folder | Database


@dataclass
class Ends:
    """Two places, the first with everything in it."""

    source: Place
    target: Place
    clock: ManualClock

    @asynccontextmanager
    async def transfers(self) -> AsyncIterator[tuple[Any, Any]]:
        async with AsyncExitStack() as stack:
            ends = [place.transfer(self.clock) for place in (self.source, self.target)]
            for end in ends:
                stack.push_async_callback(end.close)
            yield ends[0], ends[1]

    async def copy(self, **options: Any) -> None:
        async with self.transfers() as (source, target):
            await copy(source, target, clock=self.clock, **options)

    @asynccontextmanager
    async def opened(self, place: Place) -> AsyncIterator[Any]:
        store = await place.open(self.clock)
        try:
            yield store.store
        finally:
            await store.close()
