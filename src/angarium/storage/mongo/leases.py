"""Leases over MongoDB: read, decide, compare and set."""

import asyncio
from dataclasses import dataclass

from angarium.errors import Fenced, LeaseTaken, Unavailable
from angarium.limits import APPEND_ATTEMPTS, MONGO_RACE_S
from angarium.storage.contract import Fence
from angarium.storage.mongo.link import Document, Link


@dataclass(frozen=True, slots=True)
class MongoLeases:
    """See storage.contract.Leases. A free lease keeps its document: epochs only grow."""

    link: Link
    fencing: bool = True

    async def acquire(self, name: str, owner: str, ttl_s: float, now_ms: int) -> Fence:
        until_ms = now_ms + round(ttl_s * 1000)
        for attempt in range(APPEND_ATTEMPTS):
            found = await self.link.find("leases", {"_id": name})
            if found is None:
                new: Document = {"_id": name, "owner": owner, "epoch": 1, "until_ms": until_ms}
                if await self.link.insert("leases", new):
                    return Fence(name, 1)
                continue
            held = found["owner"] != "" and found["until_ms"] > now_ms
            if held and found["owner"] != owner:
                raise LeaseTaken("another owner holds the lease")
            epoch = found["epoch"] + (0 if held else 1)
            change = {"owner": owner, "epoch": epoch, "until_ms": until_ms}
            # Exactly what was read, or somebody was faster: then look again. An answer that is
            # lost is looked at again too, and finds the lease held by this owner.
            if await self._change(found, change):
                return Fence(name, epoch)
            await asyncio.sleep(MONGO_RACE_S * attempt * self.link.jitter())
        raise Unavailable("too many want this lease at once", after_ms=200)

    async def renew(self, fence: Fence, owner: str, ttl_s: float, now_ms: int) -> None:
        place: Document = {"_id": fence.lease, "owner": owner, "epoch": fence.epoch}
        until_ms = now_ms + round(ttl_s * 1000)
        if not await self._change(place, {"until_ms": until_ms}) and self.fencing:
            raise Fenced("another owner holds the lease")

    async def release(self, fence: Fence, owner: str) -> None:
        place: Document = {"_id": fence.lease, "owner": owner, "epoch": fence.epoch}
        await self._change(place, {"owner": "", "until_ms": 0})

    async def _change(self, place: Document, fields: Document) -> bool:
        result = await self.link.call(
            lambda: self.link["leases"].update_one(place, {"$set": fields})
        )
        return bool(result.matched_count)
