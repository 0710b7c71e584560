"""Leases over MongoDB: read, decide, compare and set."""

import asyncio
from dataclasses import dataclass

from bson import ObjectId

from angarium.errors import Fenced, LeaseTaken, Unavailable
from angarium.limits import APPEND_ATTEMPTS, MONGO_RACE_S
from angarium.storage.contract import Fence
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.link import Document, Link


@dataclass(frozen=True, slots=True)
class MongoLeases:
    """See storage.contract.Leases. A free lease keeps its document: epochs only grow.

    Every change goes through only over the turn that was read, so none lands late: an old
    `renew` does not shorten, an old `release` does not free what was taken again since.
    """

    link: Link
    guards: Guards = ALL_GUARDS

    async def acquire(
        self, name: str, owner: str, ttl_s: float, now_ms: int, stale: str = ""
    ) -> Fence:
        until_ms = now_ms + round(ttl_s * 1000)
        for attempt in range(APPEND_ATTEMPTS):
            found = await self._find(name)
            if found is None:
                new: Document = {
                    "_id": name, "owner": owner, "epoch": 1, "until_ms": until_ms,
                    "turn": ObjectId(),
                }  # fmt: skip
                if await self.link.insert("leases", new):
                    return Fence(name, 1)
                continue
            renewal = f"{found['epoch']}/{found['until_ms']}"
            held = found["owner"] != "" and found["until_ms"] > now_ms and renewal != stale
            if held and found["owner"] != owner:
                raise LeaseTaken(renewal=renewal)
            epoch = found["epoch"] + (0 if held else 1)
            # An answer that is lost is looked at again, and finds it held by this owner.
            if await self._change(found, owner, epoch, until_ms):
                return Fence(name, epoch)
            await self._pause(attempt)
        raise Unavailable("too many want this lease at once", after_ms=200)

    async def renew(self, fence: Fence, owner: str, ttl_s: float, now_ms: int) -> None:
        until_ms = now_ms + round(ttl_s * 1000)
        for attempt in range(APPEND_ATTEMPTS):
            found = await self._find(fence.lease)
            if found is None or (found["owner"], found["epoch"]) != (owner, fence.epoch):
                if self.guards.fencing:
                    raise Fenced("another owner holds the lease")
                return
            if await self._change(found, owner, fence.epoch, until_ms):
                return
            await self._pause(attempt)
        raise Unavailable("too many want this lease at once", after_ms=200)

    async def release(self, fence: Fence, owner: str) -> None:
        for attempt in range(APPEND_ATTEMPTS):
            found = await self._find(fence.lease)
            if found is None or (found["owner"], found["epoch"]) != (owner, fence.epoch):
                return
            if await self._change(found, "", fence.epoch, 0):
                return
            await self._pause(attempt)
        raise Unavailable("too many want this lease at once", after_ms=200)

    async def _find(self, name: str) -> Document | None:
        return await self.link.find("leases", {"_id": name})

    async def _change(self, found: Document, owner: str, epoch: int, until_ms: int) -> bool:
        change = {"owner": owner, "epoch": epoch, "until_ms": until_ms, "turn": ObjectId()}
        place: Document = {"_id": found["_id"], "owner": found["owner"]}
        if self.guards.late_writes:
            place |= {"epoch": found["epoch"], "turn": found.get("turn")}
        result = await self.link.call(
            lambda: self.link["leases"].update_one(place, {"$set": change})
        )
        return bool(result.matched_count)

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(MONGO_RACE_S * attempt * self.link.jitter())
