"""How much one owner may keep, also for calls at once from several nodes.

A new attachment is reserved in its owner's document before it is written and settled after.
Whoever wants room counts what is stored and what is reserved, each attachment once, and
reserves by compare and set: of two who count at once one counts again. A reservation outlives
its writer only until it lapses; until then it stands for a write that may still land.
"""

import asyncio
from dataclasses import dataclass, field

from bson import ObjectId

from angarium.errors import Refused, Unavailable
from angarium.ids import UserId
from angarium.limits import (
    APPEND_ATTEMPTS,
    BLOB_BYTES_COUNTED_MIN,
    BLOB_BYTES_PER_USER_MAX,
    BLOBS_OPEN_PER_USER_MAX,
    MONGO_RACE_S,
    MONGO_RESERVED_S,
)
from angarium.storage.contract import Blob
from angarium.storage.mongo.link import Document, Link

_TURNS = 64  # Owners share them by hash; enough that strangers rarely wait for each other.


@dataclass(frozen=True, slots=True)
class Room:
    """Reserves room. Callers of one owner take turns here, so only nodes ever race."""

    link: Link
    _turns: list[asyncio.Lock] = field(
        default_factory=lambda: [asyncio.Lock() for _ in range(_TURNS)]
    )

    async def reserve(self, blob: Blob) -> ObjectId:
        """Room for this attachment; `settle` what is returned once it is stored.

        Raises Refused (the bounds of Blobs.open), Unavailable.
        """
        async with self._turns[hash(blob.owner) % _TURNS]:
            return await self._reserve(blob)

    async def settle(self, owner: UserId, reservation: ObjectId) -> None:
        """The attachment counts for itself now, or is known not to come."""
        await self._change({"_id": owner}, {"$pull": {"reserved": {"id": reservation}}})

    async def _reserve(self, blob: Blob) -> ObjectId:
        reservation = ObjectId()
        entry = {
            "id": reservation, "blob": blob.id, "bytes": _counted(blob.size),
            "until_ms": blob.created_ms + round(MONGO_RESERVED_S * 1000),
        }  # fmt: skip
        for attempt in range(APPEND_ATTEMPTS):
            found = await self._find(blob)
            if any(each["id"] == reservation for each in found["reserved"]):
                return reservation  # The answer was lost, or came too late.
            await self._check(blob, found["reserved"])
            place = {"_id": blob.owner, "version": found["version"]}
            if await self._change(
                place, {"$push": {"reserved": entry}, "$inc": {"version": 1}}
            ):
                return reservation
            await asyncio.sleep(MONGO_RACE_S * attempt * self.link.jitter())
        raise Unavailable("too many uploads begin at once", after_ms=200)

    async def _find(self, blob: Blob) -> Document:
        """The owner's document with the reservations that still count."""
        found = await self.link.find("blob_owners", {"_id": blob.owner})
        if found is None:
            found = {"_id": blob.owner, "version": 0, "reserved": []}
            await self.link.insert("blob_owners", found)
        lapsed = {"until_ms": {"$lte": blob.created_ms}}
        living = [each for each in found["reserved"] if each["until_ms"] > blob.created_ms]
        if len(living) < len(found["reserved"]):
            await self._change({"_id": blob.owner}, {"$pull": {"reserved": lapsed}})
        return {**found, "reserved": living}

    async def _check(self, blob: Blob, reserved: list[Document]) -> None:
        # Counted after the reservations were read: one settled since then is stored by now.
        stored = await self.link.list(
            "blobs",
            {"owner": blob.owner, "expires_ms": {"$gt": blob.created_ms}},
            {"size": 1, "complete": 1},
        )
        held = {each["_id"]: (_counted(each["size"]), not each["complete"]) for each in stored}
        for each in reserved:
            held.setdefault(each["blob"], (each["bytes"], True))
        held.pop(blob.id, None)
        if sum(unfinished for _, unfinished in held.values()) >= BLOBS_OPEN_PER_USER_MAX:
            raise Refused(
                f"at most {BLOBS_OPEN_PER_USER_MAX} uploads at once; finish one first"
            )
        if sum(n for n, _ in held.values()) + _counted(blob.size) > BLOB_BYTES_PER_USER_MAX:
            raise Refused("your attachments are too large together; older ones expire")

    async def _change(self, place: Document, change: Document) -> bool:
        result = await self.link.call(
            lambda: self.link["blob_owners"].update_one(place, change)
        )
        return bool(result.matched_count)


def _counted(size: int) -> int:
    return max(size, BLOB_BYTES_COUNTED_MIN)
