"""Turns and deliveries over MongoDB: the reading side (the vault writes them)."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from angarium.ids import ConversationId, DeviceId, UserId
from angarium.storage.contract import TURN_FINAL, Delivery, Turn, TurnState
from angarium.storage.mongo.link import Document, Link

OPEN_DELIVERY = frozenset({"pending", "sending", "unknown"})

_TURN = [field.name for field in fields(Turn)]
_STORED_AS = {"trace": "reply"}  # A field that is older than its use.
_DELIVERY = [field.name for field in fields(Delivery) if field.name != "id"]
_NEWEST_FIRST = [("made", -1)]


@dataclass(frozen=True, slots=True)
class MongoTurns:
    """See storage.contract.Turns."""

    link: Link

    async def find(self, conversation: ConversationId, sequence: int) -> Turn | None:
        found = await self.link.find(
            "turns", {"conversation": conversation, "sequence": sequence}
        )
        return None if found is None else turn_of(found)

    async def list_open(self, owner: DeviceId) -> list[Turn]:
        return await self._list(
            {"owner": owner, "open": True}, [("conversation", 1), ("sequence", 1)]
        )

    async def list_recent(self, turns_max: int, state: TurnState | None = None) -> list[Turn]:
        wanted: Document = {} if state is None else {"state": state}
        return await self._list(wanted, _NEWEST_FIRST, turns_max)

    async def bury(self, before_ms: int, kept_max: int) -> int:
        dead = {"state": "failed", "body": {"$ne": b""}}
        newest = [("updated_ms", -1), ("made", -1)]
        found = await self.link.list("turns", dead, {"updated_ms": 1}, sort=newest)
        old = [
            document["_id"]
            for place, document in enumerate(found)
            if place >= kept_max or document["updated_ms"] < before_ms
        ]
        if not old:
            return 0
        result = await self.link.call(
            lambda: self.link["turns"].update_many(
                {"_id": {"$in": old}, "state": "failed"},
                {"$set": {"body": b"", "progress": b""}},
            )
        )
        return int(result.modified_count)

    async def _list(
        self, wanted: Document, sort: list[tuple[str, int]], turns_max: int | None = None
    ) -> list[Turn]:
        if turns_max is not None and turns_max <= 0:
            return []
        found = await self.link.list("turns", wanted, sort=sort, documents_max=turns_max or 0)
        return [turn_of(document) for document in found]


@dataclass(frozen=True, slots=True)
class MongoOutbox:
    """See storage.contract.Outbox."""

    link: Link

    async def find(self, delivery: str) -> Delivery | None:
        found = await self.link.find("deliveries", {"_id": delivery})
        return None if found is None else delivery_of(found)

    async def find_by_provider_id(self, channel: str, provider_id: str) -> Delivery | None:
        if not provider_id:
            return None
        found = await self.link.find(
            "deliveries", {"channel": channel, "provider_id": provider_id}
        )
        return None if found is None else delivery_of(found)

    async def list_due(self, channel: str, now_ms: int, deliveries_max: int) -> list[Delivery]:
        if deliveries_max <= 0:
            return []
        stages: list[dict[str, Any]] = [
            {"$match": {"channel": channel, "open": True}},
            {"$sort": {"contact": 1, "order": 1, "made": 1}},
            {"$group": {"_id": "$contact", "first": {"$first": "$$ROOT"}}},
            {"$match": {"first.due_ms": {"$lte": now_ms}}},
            {"$sort": {"first.due_ms": 1, "first.made": 1}},
            {"$limit": deliveries_max},
        ]

        async def work() -> list[Document]:
            cursor = await self.link["deliveries"].aggregate(stages)
            return await cursor.to_list()

        return [delivery_of(each["first"]) for each in await self.link.call(work)]

    async def list_of(self, contact: UserId) -> list[Delivery]:
        found = await self.link.list(
            "deliveries", {"contact": contact}, sort=[("order", 1), ("made", 1)]
        )
        return [delivery_of(document) for document in found]

    async def list_recent(self, deliveries_max: int) -> list[Delivery]:
        if deliveries_max <= 0:
            return []
        found = await self.link.list(
            "deliveries", {}, sort=_NEWEST_FIRST, documents_max=deliveries_max
        )
        return [delivery_of(document) for document in found]


def turn_of(document: Document) -> Turn:
    return Turn(**{name: document[_STORED_AS.get(name, name)] for name in _TURN})


def turn_fields(turn: Turn) -> Document:
    """All of it as it is stored."""
    fields: Document = {
        _STORED_AS.get(name, name): value for name, value in asdict(turn).items()
    }
    return {**fields, "open": turn.state not in TURN_FINAL}


def delivery_of(document: Document) -> Delivery:
    return Delivery(id=document["_id"], **{name: document[name] for name in _DELIVERY})
