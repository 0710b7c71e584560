"""Sealed records, turns and deliveries over MongoDB: one ordered list of writes, a prefix of
which survives a crash.

Fencing without transactions, in two steps. Before the first write the lease is read from the
majority: an outdated epoch is Fenced and nothing is applied. Then every document carries the
lease and the epoch it was written under, and no write goes through over a higher epoch of the
same lease. Between the two a paused owner can still write what the newer owner has not written
yet; everything the newer owner has touched is safe from it. ADR 0015 says what follows.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from bson import ObjectId
from pymongo import DeleteOne, InsertOne, UpdateOne

from angarium.errors import Conflict, Fenced, Unavailable
from angarium.limits import APPEND_ATTEMPTS, MONGO_RACE_S
from angarium.storage.contract import (
    TURN_FINAL,
    Delivery,
    DropRecord,
    Fence,
    PutDelivery,
    PutRecord,
    PutTurn,
    Record,
    Turn,
    Write,
)
from angarium.storage.mongo.faults import AlreadyThere
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.work import OPEN_DELIVERY

_Request: TypeAlias = InsertOne[Document] | UpdateOne | DeleteOne


@dataclass(frozen=True, slots=True)
class _Step:
    """One write as the store sees it. `token` marks a record so that a repeated request is told
    from another writer's. `exact`: the request must change a document, or it is a conflict."""

    collection: str
    place: Document
    request: _Request
    token: ObjectId | None = None
    exact: bool = False
    must_be_new: bool = False


@dataclass(frozen=True, slots=True)
class MongoVault:
    """See storage.contract.Vault. A write is applied in order; a crash leaves a prefix."""

    link: Link
    fencing: bool = True

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        wanted: Document = {"scope": scope}
        if prefix:
            # A range, not a pattern: no letter of a key is a wildcard.
            wanted["key"] = {"$gte": prefix, "$lte": f"{prefix}\U0010ffff"}
        found = await self.link.list("records", wanted, sort=[("key", 1)])
        return [
            Record(scope, each["key"], each["rev"], each["blob"])
            for each in found
            if each["key"].startswith(prefix)
        ]

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        if fence is not None and self.fencing:
            await self._check(fence)
        held = fence if self.fencing else None
        steps = [_step(write, held) for write in writes]
        start = 0
        while start < len(steps):
            if steps[start].exact:
                await self._replace(steps[start], held)
                start += 1
            else:
                end = start + 1
                while end < len(steps) and _join(steps[start], steps[end]):
                    end += 1
                await self._apply(steps[start:end], held)
                start = end

    async def _check(self, fence: Fence) -> None:
        found = await self.link.find("leases", {"_id": fence.lease}, {"epoch": 1})
        if found is None or found["epoch"] != fence.epoch:
            raise Fenced("a newer owner holds the lease")

    async def _apply(self, steps: list[_Step], fence: Fence | None) -> None:
        """Writes to one collection, in order, in as few requests as it takes."""
        done = 0
        for attempt in range(APPEND_ATTEMPTS):
            requests = [step.request for step in steps[done:]]
            try:
                await self.link.call(
                    lambda requests=requests: self.link[steps[0].collection].bulk_write(  # type: ignore[misc]
                        requests, ordered=True
                    )
                )
            except AlreadyThere as taken:
                done += taken.index
                if await self._settled(steps[done], fence):
                    done += 1
                    if done == len(steps):
                        return
                else:
                    # Two writers made the same document at once: it is there now.
                    await asyncio.sleep(MONGO_RACE_S * attempt * self.link.jitter())
            else:
                return
        raise Unavailable("too many writers at one record", after_ms=200)

    async def _replace(self, step: _Step, fence: Fence | None) -> None:
        request = step.request
        assert isinstance(request, UpdateOne)  # noqa: S101
        result = await self.link.call(
            lambda: self.link[step.collection].bulk_write([request], ordered=True)
        )
        if not result.matched_count and not await self._settled(step, fence):
            raise Conflict("another writer changed this record first")

    async def _settled(self, step: _Step, fence: Fence | None) -> bool:
        """Why a write did not go through: True, it had before; False, a race. Raises Fenced and
        Conflict."""
        found = await self.link.find(step.collection, step.place)
        if found is None:
            if step.exact:
                raise Conflict("this record is not there any more")
            return False
        if step.token is not None and found.get("token") == step.token:
            return True
        theirs = fence is not None and found.get("lease") == fence.lease
        if fence is not None and theirs and found["lease_epoch"] > fence.epoch:
            raise Fenced("a newer owner has written here")
        if step.must_be_new:
            raise Conflict("this record is there already")
        return False


def _join(first: _Step, other: _Step) -> bool:
    return first.collection == other.collection and not other.exact


def _step(write: Write, fence: Fence | None) -> _Step:
    match write:
        case PutRecord():
            return _put_record(write, fence)
        case DropRecord(scope, key):
            place: Document = {"scope": scope, "key": key}
            return _Step("records", place, DeleteOne(place | _unless_newer(fence)))
        case PutTurn(turn, only_new):
            return _put_turn(turn, fence, only_new=only_new)
        case PutDelivery(delivery, only_new):
            return _put_delivery(delivery, fence, only_new=only_new)


def _put_record(put: PutRecord, fence: Fence | None) -> _Step:
    place: Document = {"scope": put.scope, "key": put.key}
    token = ObjectId()
    fields: Document = {"blob": put.blob, "token": token, **_stamp(fence)}
    if put.expect_rev == 0:
        new = InsertOne[Document]({"_id": ObjectId(), **place, "rev": 1, **fields})
        return _Step("records", place, new, token, must_be_new=True)
    change: Document = {"$set": fields, "$inc": {"rev": 1}}
    if put.expect_rev is not None:
        wanted = {**place, "rev": put.expect_rev, **_unless_newer(fence)}
        return _Step("records", place, UpdateOne(wanted, change), token, exact=True)
    # A repeated request finds its own token, tries to insert and meets the unique index.
    wanted = {**place, "token": {"$ne": token}, **_unless_newer(fence)}
    return _Step("records", place, UpdateOne(wanted, change, upsert=True), token)


def _put_turn(turn: Turn, fence: Fence | None, *, only_new: bool) -> _Step:
    place: Document = {"conversation": turn.conversation, "sequence": turn.sequence}
    fields: Document = {**asdict(turn), "open": turn.state not in TURN_FINAL, **_stamp(fence)}
    return _put("turns", place, fields, fence, only_new=only_new)


def _put_delivery(delivery: Delivery, fence: Fence | None, *, only_new: bool) -> _Step:
    place: Document = {"_id": delivery.id}
    fields: Document = {**asdict(delivery), **_stamp(fence)}
    del fields["id"]
    fields["open"] = delivery.state in OPEN_DELIVERY
    return _put("deliveries", place, fields, fence, only_new=only_new)


def _put(
    collection: str, place: Document, fields: Document, fence: Fence | None, *, only_new: bool
) -> _Step:
    fresh: Document = {"made": ObjectId()}
    rest = {name: value for name, value in fields.items() if name not in place}
    if only_new:
        request = UpdateOne(place, {"$setOnInsert": {**rest, **fresh}}, upsert=True)
    else:
        change: Document = {"$set": rest, "$setOnInsert": fresh}
        request = UpdateOne(place | _unless_newer(fence), change, upsert=True)
    return _Step(collection, place, request)


def _stamp(fence: Fence | None) -> Document:
    return {} if fence is None else {"lease": fence.lease, "lease_epoch": fence.epoch}


def _unless_newer(fence: Fence | None) -> dict[str, Any]:
    """The part of a filter that misses what a newer owner of the lease has written."""
    if fence is None:
        return {}
    return {"$nor": [{"lease": fence.lease, "lease_epoch": {"$gt": fence.epoch}}]}
