"""The cluster's store, put together: `open_mongo` is its only way in."""

import asyncio
import secrets

from bson import ObjectId

from angarium.clock import Clock
from angarium.errors import StoreUnwritable, Unavailable
from angarium.limits import MONGO_CALL_S
from angarium.storage.contract import Store
from angarium.storage.mongo.appends import Appends
from angarium.storage.mongo.blobs import MongoBlobs
from angarium.storage.mongo.conversations import MongoConversations, MongoReceipts
from angarium.storage.mongo.directory import MongoDirectory
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.heads import Heads
from angarium.storage.mongo.ids import Numbers
from angarium.storage.mongo.inbox import MongoAudit, MongoCommands, MongoWebhooks
from angarium.storage.mongo.leases import MongoLeases
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.log import MongoLog
from angarium.storage.mongo.marks import Marks, fold_journals
from angarium.storage.mongo.room import Room
from angarium.storage.mongo.schema import check_version, demand_whole, upgrade, version_of
from angarium.storage.mongo.server_clock import ServerClock
from angarium.storage.mongo.turns import Ids
from angarium.storage.mongo.vault import MongoVault
from angarium.storage.mongo.work import MongoOutbox, MongoTurns


class MongoStore:
    """All contracts over one MongoDB database. Made by `open_mongo` or `second`; `store` is
    what the product uses."""

    def __init__(
        self, link: Link, clock: Clock, guards: Guards = ALL_GUARDS, *, cluster: str = ""
    ) -> None:
        self._link, self.clock, self._guards = link, clock, guards
        ids = Ids()
        self._heads, self._marks = Heads(link, ids.name), Marks(link, str(ObjectId()))
        self._appends = Appends(link, clock, self._heads, self._marks, ids, guards)
        self._name = str(ObjectId())
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        if isinstance(clock, ServerClock):
            self._looking = asyncio.create_task(clock.run(), name="store clock")
        self.cluster = cluster
        numbers = Numbers(clock, secrets.randbits)
        self.store = Store(
            log=MongoLog(link, self._appends, self._heads, clock),
            conversations=MongoConversations(link),
            receipts=MongoReceipts(link, self._heads),
            directory=MongoDirectory(link),
            vault=MongoVault(link, guards),
            turns=MongoTurns(link),
            outbox=MongoOutbox(link),
            leases=MongoLeases(link, guards),
            webhooks=MongoWebhooks(link, numbers),
            audit=MongoAudit(link, numbers),
            commands=MongoCommands(link),
            blobs=MongoBlobs(link, Room(link)),
        )

    async def second(self) -> "MongoStore":
        """Another store object over the same data with a connection and caches of its own, as a
        second node would have. Close each."""
        link = Link(
            self._link.uri, self._link.name, call_s=self._link.call_s, guards=self._guards
        )
        return MongoStore(link, self.clock, self._guards, cluster=self.cluster)

    async def check(self) -> None:
        """Prove that the store works now: a durable write, then a read that sees it.

        Raises Unavailable, DiskFull or StoreUnwritable.
        """
        mark = ObjectId()
        await self._link.call(
            lambda: self._link["meta"].update_one(
                {"_id": "checked"},
                {"$set": {"mark": mark, "node": self._name}},
                upsert=True,
            )
        )
        found = await self._link.find("meta", {"_id": "checked"})
        if found is None:
            raise StoreUnwritable("the store does not show what was written to it")

    def figures(self) -> dict[str, int]:
        """Counters since opening, and what waits now; for metrics."""
        tally, clock = self._appends.tally, self.clock
        return {
            "commits": tally.rounds,
            "commit_failures": tally.failures,
            "commit_parts": tally.runs,
            "messages": tally.messages,
            "races_lost": tally.races_lost,
            "clock_ahead_ms": clock.ahead_ms if isinstance(clock, ServerClock) else 0,
            "calls": self._link.calls,
            "calls_repeated": self._link.retries,
            "writes_waiting": self._appends.waiting,
            "reads_waiting": self._link.waiting,
        }

    async def close(self) -> None:
        """Finish what was begun, then close the connection. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._appends.close()
        await self._marks.close()
        await self._link.close()


async def open_mongo(
    uri: str,
    clock: Clock,
    *,
    database: str = "angarium",
    call_s: float = MONGO_CALL_S,
    guards: Guards = ALL_GUARDS,
    server_time: bool = False,
) -> MongoStore:
    """Open the store at `uri`; an empty database is prepared, an older one is not touched.

    With `server_time` the store's `clock`, by which it dates what it stores, is the server's,
    and `clock` only counts on between two looks at it. `call_s` bounds each call with its
    retries; over it: Unavailable. Raises Misconfigured, SchemaMismatch, StoreUnwritable or
    Unavailable.
    """
    link = Link(uri, database, call_s=call_s, guards=guards)
    try:
        if not await version_of(link):
            await upgrade(link, guards)
        await check_version(link)
        await demand_whole(link)
        cluster = await _name_cluster(link)
        if server_time:
            clock = ServerClock(link, clock)
            await clock.measure()
        await fold_journals(link)
    except BaseException as error:
        await link.close()
        if isinstance(error, Unavailable):
            raise Unavailable(f"{error} (at {link.hosts})", error.after_ms) from None
        raise
    return MongoStore(link, clock, guards, cluster=cluster)


async def _name_cluster(link: Link) -> str:
    """A name made once, which every node on this database finds."""
    await link.insert("meta", {"_id": "cluster", "name": str(ObjectId())})
    found = await link.find("meta", {"_id": "cluster"})
    if found is None:
        raise StoreUnwritable("the store does not show what was written to it")
    return str(found["name"])
