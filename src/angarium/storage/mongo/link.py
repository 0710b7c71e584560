"""The connection to one database: durable writes, majority reads, bounded retries."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pymongo
from bson import Int64
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, ConfigurationError
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from angarium.errors import Busy, Unavailable
from angarium.limits import (
    MONGO_CALL_S,
    MONGO_CLOSE_S,
    MONGO_CONNECTIONS_MAX,
    MONGO_HEARTBEAT_MS,
    MONGO_RETRY_MAX_S,
    MONGO_RETRY_MIN_S,
    STORE_CALLS_WAITING_MAX,
)
from angarium.resilience import cancellable
from angarium.storage.mongo.faults import FAILURES, AlreadyThere, translate, verdict_of
from angarium.storage.mongo.guards import ALL_GUARDS, Guards

T = TypeVar("T")
ONE = WriteConcern(1, j=False)
Document = dict[str, Any]
Documents = AsyncCollection[Document]


class _PlainInteger(TypeDecoder):
    """The driver's 64-bit integers are a class of its own, which frames cannot hold."""

    bson_type = Int64

    def transform_bson(self, value: Any) -> int:
        return int(value)


class Greetings(ServerHeartbeatListener):
    """Which servers the driver greets just now, over connections it may still be opening.

    Cancelled while it opens one, the driver loses that socket to the collector.
    """

    def __init__(self) -> None:
        self._under_way: set[tuple[str, int | None]] = set()
        self._over = asyncio.Event()

    async def finish(self) -> None:
        """Returns once none is under way."""
        await asyncio.sleep(0)  # A failed one may be tried again at once.
        while self._under_way:
            self._over.clear()
            await self._over.wait()
            await asyncio.sleep(0)

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        if not event.awaited:  # Else it waits for news over a connection that stands.
            self._under_way.add(event.connection_id)

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        self._end(event.connection_id)

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        self._end(event.connection_id)

    def _end(self, place: tuple[str, int | None]) -> None:
        self._under_way.discard(place)
        self._over.set()


class Link:
    """One client and one database; every write is w:majority with a journal, every read sees
    only what a majority has. Raises Misconfigured for a URI that cannot be used."""

    def __init__(
        self,
        uri: str,
        database: str,
        *,
        call_s: float = MONGO_CALL_S,
        jitter: Callable[[], float] = random.random,
        guards: Guards = ALL_GUARDS,
    ) -> None:
        self.uri, self.name = uri, database
        self.waiting = 0
        self.calls = self.retries = 0
        self.closed = False
        self._greetings = Greetings()
        self.call_s = call_s
        self.jitter = jitter
        try:
            self.client: AsyncMongoClient[Document] = AsyncMongoClient(
                uri,
                appname="angarium",
                event_listeners=[self._greetings],
                heartbeatFrequencyMS=MONGO_HEARTBEAT_MS,
                maxPoolSize=MONGO_CONNECTIONS_MAX,
            )
        except (ConfigurationError, ValueError):  # Of the latter kind: a port that is none.
            raise translate(ConfigurationError()) from None
        self.database: AsyncDatabase[Document] = self.client.get_database(
            database,
            codec_options=CodecOptions(type_registry=TypeRegistry([_PlainInteger()])),
            write_concern=WriteConcern("majority", j=True) if guards.majority else ONE,
            read_concern=ReadConcern("majority" if guards.majority else "local"),
            read_preference=ReadPreference.PRIMARY,
        )

    @property
    def hosts(self) -> str:
        """Where the store is, as the URI says, without who we are there."""
        return urlsplit(self.uri).netloc.rpartition("@")[2]

    def __getitem__(self, name: str) -> Documents:
        return self.database[name]

    async def call(self, operation: Callable[[], Awaitable[T]], *, bounded: bool = True) -> T:
        """The result of `operation`, which must be safe to repeat: it is tried again while the
        store changes its primary or does not answer, `call_s` in all.

        `bounded` calls are refused (Busy) when too many wait. Raises AlreadyThere, Unavailable
        and what `translate` makes of final errors.
        """
        if self.closed:
            raise Unavailable("the store is closed")
        if bounded and self.waiting >= STORE_CALLS_WAITING_MAX:
            raise Busy("too many calls wait for the store", after_ms=200)
        self.waiting += 1
        self.calls += 1
        try:
            return await self._until_answered(operation)
        finally:
            self.waiting -= 1

    async def _until_answered(self, operation: Callable[[], Awaitable[T]]) -> T:
        now_s = asyncio.get_running_loop().time
        deadline_s = now_s() + self.call_s
        pause_s = MONGO_RETRY_MIN_S
        while True:
            try:
                with pymongo.timeout(max(0.01, deadline_s - now_s())):
                    return await cancellable(operation())
            except FAILURES as error:
                verdict = verdict_of(error)
                if verdict == "taken":
                    raise AlreadyThere(_first_failed(error)) from None
                if verdict not in ("again", "race") or now_s() + pause_s >= deadline_s:
                    raise translate(error) from None
            self.retries += 1
            await asyncio.sleep(pause_s * (0.5 + self.jitter() / 2))
            pause_s = min(MONGO_RETRY_MAX_S, pause_s * 2)

    async def find(self, name: str, wanted: Document, shown: Document | None = None,
                   *, bounded: bool = True) -> Document | None:  # fmt: skip
        """One document, or None."""
        return await self.call(lambda: self[name].find_one(wanted, shown), bounded=bounded)

    async def list(
        self,
        name: str,
        wanted: Document,
        shown: Document | None = None,
        *,
        sort: list[tuple[str, int]] | None = None,
        documents_max: int = 0,
        bounded: bool = True,
    ) -> list[Document]:
        """All documents that fit, or the first `documents_max` of them."""

        async def work() -> list[Document]:
            cursor = self[name].find(wanted, shown, limit=max(0, documents_max))
            if sort:
                cursor = cursor.sort(sort)
            if documents_max > 0:
                cursor = cursor.batch_size(documents_max + 1)  # All of it in one answer.
            return await cursor.to_list()

        return await self.call(work, bounded=bounded)

    async def insert(self, name: str, document: Document) -> bool:
        """Insert it; False when it was there before. Give it an `_id` of its own: a repeated
        insert is told from a foreign one by it."""
        try:
            await self.call(lambda: self[name].insert_one(document))
        except AlreadyThere:
            return False
        return True

    async def close(self) -> None:
        """Close every connection; with a store that is gone within twice MONGO_CLOSE_S."""
        self.closed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._greetings.finish(), MONGO_CLOSE_S)
        with pymongo.timeout(MONGO_CLOSE_S):
            await self.client.close()
        await asyncio.sleep(0)  # The driver's connections close in the loop's next step.


def _first_failed(error: Exception) -> int:
    if isinstance(error, BulkWriteError) and error.details.get("writeErrors"):
        return int(error.details["writeErrors"][0].get("index", 0))
    return 0
