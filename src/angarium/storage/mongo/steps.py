"""One write of the vault as the store sees it: a compare and set over the last one's token.

Every document carries the token of its last write, and a write goes through only over the token
it has seen. So a write that lands late, after a newer one, changes nothing; and a request that
was repeated finds its own token. No IO.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from bson import ObjectId
from pymongo import UpdateOne

from angarium.errors import Conflict, Fenced
from angarium.storage.contract import (
    Delivery,
    DropRecord,
    Fence,
    PutDelivery,
    PutRecord,
    PutTurn,
    Turn,
    Write,
)
from angarium.storage.mongo.link import Document
from angarium.storage.mongo.work import OPEN_DELIVERY, turn_fields

Spot: TypeAlias = tuple[str, str, str | int]
"""A collection, and what names a document in it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A document as it was last seen. `there`: it exists, perhaps as the trace of a dropped
    record, whose `rev` is 0."""

    there: bool = False
    token: ObjectId | None = None
    rev: int = 0
    lease: str = ""
    epoch: int = 0


SEEN_FIELDS = {"token": 1, "rev": 1, "dropped_at": 1, "lease": 1, "lease_epoch": 1}


def seen_of(document: Document | None) -> Seen:
    """What matters of a document that was read with SEEN_FIELDS."""
    if document is None:
        return Seen()
    dropped = document.get("dropped_at") is not None
    return Seen(
        True,
        document.get("token"),
        0 if dropped else document.get("rev", 0),
        document.get("lease", ""),
        document.get("lease_epoch", 0),
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A write in the store's words. `only_new`: what exists is left as it is."""

    collection: str
    place: Document
    fields: Document
    only_new: bool = False
    drops: bool = False
    expect_rev: int | None = None
    fence: Fence | None = None
    token: ObjectId = field(default_factory=ObjectId)

    @property
    def spot(self) -> Spot:
        first, *rest = self.place.values()
        return self.collection, first, rest[0] if rest else ""

    def check(self, seen: Seen) -> None:
        """Raises Fenced (a newer owner wrote here), Conflict (another revision)."""
        fence = self.fence
        if fence is not None and seen.lease == fence.lease and seen.epoch > fence.epoch:
            raise Fenced("a newer owner has written here")
        if self.expect_rev is not None and seen.rev != self.expect_rev:
            raise Conflict("another writer changed this record first")

    def request(self, seen: Seen, *, late_writes: bool = True) -> UpdateOne:
        """What to send. When the document is not as seen, it meets the unique index."""
        fresh = {"made": ObjectId()}
        fields = {**self.fields, "token": self.token}
        if self.only_new:
            return UpdateOne(self.place, {"$setOnInsert": {**fields, **fresh}}, upsert=True)
        change: dict[str, Any] = {"$set": fields, "$setOnInsert": fresh}
        if self.collection == "records":
            fields["rev"] = seen.rev + 1
            if self.drops:
                change["$currentDate"] = {"dropped_at": True}
            else:
                change["$unset"] = {"dropped_at": ""}
        wanted = dict(self.place)
        if late_writes:
            wanted["token"] = seen.token if seen.there else self.token
        return UpdateOne(wanted, change, upsert=True)

    def after(self, seen: Seen) -> Seen:
        """The document once this step has gone through."""
        if self.only_new and seen.there:
            return seen
        lease, epoch = (self.fence.lease, self.fence.epoch) if self.fence else ("", 0)
        if self.fence is None:
            lease, epoch = seen.lease, seen.epoch  # The stamp of the last fenced write stays.
        return Seen(True, self.token, 0 if self.drops else seen.rev + 1, lease, epoch)


def step_of(write: Write, fence: Fence | None) -> Step:
    """The step that makes this write."""
    stamp: Document = (
        {} if fence is None else {"lease": fence.lease, "lease_epoch": fence.epoch}
    )
    match write:
        case PutRecord(scope, key, blob, expect_rev):
            place: Document = {"scope": scope, "key": key}
            fields: Document = {"blob": blob, **stamp}
            return Step("records", place, fields, expect_rev=expect_rev, fence=fence)
        case DropRecord(scope, key):
            # A trace stays for a while: a write that comes late must not make it again.
            place = {"scope": scope, "key": key}
            return Step("records", place, {"blob": b"", **stamp}, drops=True, fence=fence)
        case PutTurn(turn, only_new):
            place = {"conversation": turn.conversation, "sequence": turn.sequence}
            fields = {**_turn_fields(turn), **stamp}
            return Step("turns", place, fields, only_new=only_new, fence=fence)
        case PutDelivery(delivery, only_new):
            fields = {**_delivery_fields(delivery), **stamp}
            place = {"_id": delivery.id}
            return Step("deliveries", place, fields, only_new=only_new, fence=fence)


def _turn_fields(turn: Turn) -> Document:
    fields = turn_fields(turn)
    del fields["conversation"], fields["sequence"]
    return fields


def _delivery_fields(delivery: Delivery) -> Document:
    fields: Document = {**asdict(delivery), "open": delivery.state in OPEN_DELIVERY}
    del fields["id"]
    return fields
