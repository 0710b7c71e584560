"""Webhooks, the audit trail and remembered commands over MongoDB."""

from dataclasses import dataclass
from typing import Any

import msgspec

from angarium.errors import Unavailable
from angarium.limits import APPEND_ATTEMPTS, COMMAND_KEY_KEPT_S
from angarium.storage.contract import AuditEntry, WebhookEntry
from angarium.storage.mongo.faults import AlreadyThere
from angarium.storage.mongo.ids import Numbers
from angarium.storage.mongo.link import Document, Link

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class MongoWebhooks:
    """See storage.contract.WebhookInbox. Finished entries also lapse by themselves."""

    link: Link
    numbers: Numbers

    async def put(self, channel: str, event: str, raw: bytes, now_ms: int) -> bool:
        for _ in range(APPEND_ATTEMPTS):
            document: Document = {
                "_id": self.numbers.draw(), "channel": channel, "event": event, "raw": raw,
                "received_ms": now_ms, "attempts": 0, "state": "open", "outcome": "",
            }  # fmt: skip
            if await self.link.insert("webhooks", document):
                return True
            place = {"channel": channel, "event": event}
            found = await self.link.find("webhooks", place, {"_id": 1})
            if found is not None:
                # Our own number: the first answer was lost, and the insert repeated.
                return bool(found["_id"] == document["_id"])
        raise Unavailable("no free number was found", after_ms=200)

    async def list_open(self, channel: str, entries_max: int) -> list[WebhookEntry]:
        return await self._list({"state": "open", "channel": channel}, 1, entries_max)

    async def finish(self, entry: int, outcome: str) -> None:
        await self._change(
            {"_id": entry},
            {
                "$set": {"state": "done", "outcome": outcome, "raw": b""},
                "$currentDate": {"finished_at": True},
            },
        )

    async def fail(self, entry: int, reason: str, give_up: bool) -> None:
        state = "dead" if give_up else "open"
        await self._change(
            {"_id": entry, "state": "open"},
            {"$set": {"outcome": reason, "state": state}, "$inc": {"attempts": 1}},
        )

    async def list_dead(self, entries_max: int) -> list[WebhookEntry]:
        return await self._list({"state": "dead"}, -1, entries_max)

    async def forget(self, before_ms: int) -> int:
        result = await self.link.call(
            lambda: self.link["webhooks"].delete_many(
                {"state": "done", "received_ms": {"$lt": before_ms}}
            )
        )
        return int(result.deleted_count)

    async def _change(self, place: Document, change: Document) -> None:
        await self.link.call(lambda: self.link["webhooks"].update_one(place, change))

    async def _list(
        self, wanted: Document, direction: int, entries_max: int
    ) -> list[WebhookEntry]:
        if entries_max <= 0:
            return []
        found = await self.link.list(
            "webhooks", wanted, sort=[("_id", direction)], documents_max=entries_max
        )
        return [
            WebhookEntry(
                each["_id"], each["channel"], each["event"], each["raw"],
                each["received_ms"], each["attempts"],
            )
            for each in found
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class MongoAudit:
    """See storage.contract.Audit."""

    link: Link
    numbers: Numbers

    async def append(self, entry: AuditEntry) -> None:
        for _ in range(APPEND_ATTEMPTS):
            document: Document = {
                "_id": self.numbers.draw(), "at_ms": entry.at_ms,
                "principal": entry.principal, "action": entry.action, "target": entry.target,
                "outcome": entry.outcome, "detail": msgspec.json.encode(entry.detail),
            }  # fmt: skip
            if await self.link.insert("audit", document):
                return
            if await self.link.find("audit", {"_id": document["_id"]}) == document:
                return  # The first answer was lost, and the insert repeated.
        raise Unavailable("no free number was found", after_ms=200)

    async def list(self, entries_max: int, before_id: int | None = None) -> list[AuditEntry]:
        if entries_max <= 0:
            return []
        wanted: Document = {} if before_id is None else {"_id": {"$lt": before_id}}
        found = await self.link.list(
            "audit", wanted, sort=[("_id", -1)], documents_max=entries_max
        )
        return [
            AuditEntry(
                each["at_ms"], each["principal"], each["action"], each["target"],
                each["outcome"], _decode_json(each["detail"]), each["_id"],
            )
            for each in found
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class MongoCommands:
    """See storage.contract.Commands. The age is checked here; the TTL index only cleans up."""

    link: Link

    async def find(self, stage: str, key: str, now_ms: int) -> bytes | None:
        found = await self.link.find(
            "commands", {"_id": _place(stage, key), "created_ms": {"$gt": _oldest(now_ms)}}
        )
        return None if found is None else bytes(found["answer"])

    async def remember(self, stage: str, key: str, answer: bytes, now_ms: int) -> bytes:
        expired = {"_id": _place(stage, key), "created_ms": {"$lte": _oldest(now_ms)}}
        change = {
            "$set": {"answer": answer, "created_ms": now_ms},
            "$currentDate": {"stored_at": True},
        }
        for _ in range(APPEND_ATTEMPTS):
            try:
                # A living answer is missed by the filter, and its key is taken.
                await self.link.call(
                    lambda: self.link["commands"].update_one(expired, change, upsert=True)
                )
            except AlreadyThere:
                earlier = await self.find(stage, key, now_ms)
                if earlier is not None:
                    return earlier
                continue  # It lapsed in between.
            return answer
        raise Unavailable("the answer was not stored", after_ms=200)


def _place(stage: str, key: str) -> str:
    return f"{stage}\n{key}"


def _oldest(now_ms: int) -> int:
    return now_ms - COMMAND_KEY_KEPT_S * 1000
