"""The message log over MongoDB."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from angarium.clock import Clock
from angarium.errors import NotFound
from angarium.ids import ConversationId, DeviceId
from angarium.model.conversation import Head
from angarium.model.message import AppendResult, NewMessage, StoredMessage
from angarium.storage.mongo.appends import Appends
from angarium.storage.mongo.heads import Heads
from angarium.storage.mongo.link import Document, Link

_LAST = 2**62  # Larger numbers do not fit the database; no log is that long.
_SHOWN = {"_id": 0, "seq": 1, "key": 1, "from": 1, "dev": 1, "cs": 1, "kind": 1, "at": 1}
_FIELD = re.compile(r"[A-Za-z0-9_-]+")  # Anything else would be a path, not a device's field.


@dataclass(frozen=True, slots=True)
class MongoLog:
    """See storage.contract.MessageLog. A batch is one ordered write per conversation; `heads`
    cover every acknowledged message (see heads.py)."""

    link: Link
    appends: Appends
    known: Heads
    clock: Clock

    async def append(self, batch: Sequence[NewMessage]) -> list[AppendResult]:
        return await self.appends.append(batch)

    async def heads(
        self, conversations: Sequence[ConversationId]
    ) -> dict[ConversationId, Head]:
        return await self.known.list(conversations)

    async def read(
        self,
        conversation: ConversationId,
        device: DeviceId,
        first: int,
        last: int,
        messages_max: int,
    ) -> list[StoredMessage]:
        if messages_max <= 0:
            return []
        known = (await self.known.load([conversation])).get(conversation)
        if known is None:
            return []
        shown: Document = {**_SHOWN, f"to.{device if _FIELD.fullmatch(device) else '-'}": 1}
        documents = await self.link.list(
            "messages",
            {"c": conversation, "seq": {"$gte": min(first, _LAST), "$lte": min(last, _LAST)}},
            shown,
            sort=[("seq", 1)],
            documents_max=messages_max,
        )
        return [_stored(conversation, known.epoch, document) for document in documents]

    def learn(self, messages: Sequence[StoredMessage]) -> None:
        for message in messages:
            self.known.learn(message)

    async def last_cs(self, conversation: ConversationId, device: DeviceId) -> int:
        return await self.known.newest_counter(conversation, device)

    async def purge(self, conversation: ConversationId, up_to: int) -> int:
        known = (await self.known.load([conversation])).get(conversation)
        if known is None:
            raise NotFound("no such conversation")
        await self.known.refresh(conversation, known)
        head = known.head
        bound = max(0, min(up_to, head))
        # The head first: whatever is lost below it, the sequence never restarts.
        await self.link.call(
            lambda: self.link["conversations"].update_one(
                {"_id": conversation}, {"$max": {"head": head, "floor": bound + 1}}
            )
        )
        now_ms = max(1, self.clock.now_ms())
        result = await self.link.call(
            lambda: self.link["messages"].update_many(
                {"c": conversation, "seq": {"$lte": bound}, "purged_ms": 0},
                {"$set": {"kind": "void", "to": {}, "purged_ms": now_ms}},
            )
        )
        return int(result.modified_count)


def _stored(conversation: ConversationId, epoch: int, document: Document) -> StoredMessage:
    return StoredMessage(
        conversation=conversation,
        epoch=epoch,
        sequence=document["seq"],
        key=document["key"],
        sender=document["from"],
        device=document["dev"],
        cs=document["cs"],
        kind=document["kind"],
        accepted_ms=document["at"],
        to=document.get("to", {}),
    )
