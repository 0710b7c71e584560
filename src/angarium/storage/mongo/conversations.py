"""Conversations, their participants, and receipts over MongoDB."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pymongo import UpdateOne

from angarium.errors import NotFound, Unavailable
from angarium.ids import ConversationId, UserId
from angarium.limits import APPEND_ATTEMPTS, RECEIPTS_RETRY_S
from angarium.model.conversation import Conversation, Participant
from angarium.storage.contract import ReceiptKind
from angarium.storage.mongo.faults import AlreadyThere
from angarium.storage.mongo.heads import Heads
from angarium.storage.mongo.link import Document, Link

_OLDEST_FIRST = [("created_ms", 1), ("_id", 1)]


@dataclass(frozen=True, slots=True)
class MongoConversations:
    """See storage.contract.Conversations. Participants live in the conversation's document, so
    every change of them is one atomic write."""

    link: Link

    async def create(
        self, conversation: ConversationId, participants: Sequence[Participant], now_ms: int
    ) -> Conversation:
        existing = await self.find(conversation)
        if existing is not None:
            return existing
        roles: dict[UserId, str] = {}
        for participant in participants:
            roles.setdefault(participant.user, participant.role)
        # After a restore new conversations begin in its epoch: their id may have a past.
        epoch = await self.link.find("meta", {"_id": "epoch"})
        await self.link.insert(
            "conversations",
            {
                "_id": conversation,
                "epoch": int(epoch["value"]) if epoch else 1,
                "floor": 1,
                "head": 0,
                "created_ms": now_ms,
                "participants": [{"user": user, "role": role} for user, role in roles.items()],
            },
        )
        return await self._get(conversation)

    async def find(self, conversation: ConversationId) -> Conversation | None:
        document = await self.link.find("conversations", {"_id": conversation})
        return None if document is None else _conversation(document)

    async def find_between(self, users: Sequence[UserId]) -> Conversation | None:
        names = sorted(set(users))
        if not names:
            return None
        found = await self.link.list(
            "conversations",
            {
                # Not $all: engines differ in what it means for a field of a list's documents.
                "$and": [{"participants.user": name} for name in names],
                "participants": {"$size": len(names)},
            },
            sort=_OLDEST_FIRST,
            documents_max=1,
        )
        return _conversation(found[0]) if found else None

    async def list_of(self, user: UserId) -> list[Conversation]:
        return (await self.lists_of([user]))[user]

    async def lists_of(self, users: Collection[UserId]) -> dict[UserId, list[Conversation]]:
        found = await self.link.list(
            "conversations", {"participants.user": {"$in": list(users)}}, sort=_OLDEST_FIRST
        )
        lists: dict[UserId, list[Conversation]] = {user: [] for user in users}
        for conversation in map(_conversation, found):
            for participant in conversation.participants:
                if participant.user in lists:
                    lists[participant.user].append(conversation)
        return lists

    async def add(self, conversation: ConversationId, participant: Participant) -> Conversation:
        entry = {"user": participant.user, "role": participant.role}
        await self.link.call(
            lambda: self.link["conversations"].update_one(
                {"_id": conversation, "participants.user": {"$ne": participant.user}},
                {"$push": {"participants": entry}},
            )
        )
        return await self._get(conversation)

    async def remove(self, conversation: ConversationId, user: UserId) -> Conversation:
        await self.link.call(
            lambda: self.link["conversations"].update_one(
                {"_id": conversation}, {"$pull": {"participants": {"user": user}}}
            )
        )
        return await self._get(conversation)

    async def _get(self, conversation: ConversationId) -> Conversation:
        found = await self.find(conversation)
        if found is None:
            raise NotFound("no such conversation")
        return found


def _conversation(document: Document) -> Conversation:
    participants = tuple(
        Participant(each["user"], each["role"]) for each in document["participants"]
    )
    return Conversation(
        document["_id"], document["epoch"], participants, document["created_ms"]
    )


@dataclass(frozen=True, slots=True)
class MongoReceipts:
    """See storage.contract.Receipts. Receipts of unknown conversations are dropped."""

    link: Link
    known: Heads

    async def fold(
        self, receipts: Sequence[tuple[ConversationId, UserId, ReceiptKind, int]]
    ) -> None:
        existing = await self.known.load(name for name, *_ in receipts)
        marks: dict[tuple[ConversationId, UserId], dict[str, int]] = {}
        for conversation, user, kind, sequence in receipts:
            if conversation in existing:
                mark = marks.setdefault((conversation, user), {})
                mark[kind] = max(mark.get(kind, sequence), sequence)
        changes = [
            UpdateOne(
                {"conversation": conversation, "user": user}, {"$max": dict(mark)}, upsert=True
            )
            for (conversation, user), mark in marks.items()
        ]
        if not changes:
            return
        for attempt in range(APPEND_ATTEMPTS):
            try:
                await self.link.call(
                    lambda: self.link["receipts"].bulk_write(changes, ordered=False)
                )
            except AlreadyThere:
                # Two nodes made the same document at once: it is there now.
                await asyncio.sleep(RECEIPTS_RETRY_S * attempt * self.link.jitter())
            else:
                return
        raise Unavailable("the receipts were not stored", after_ms=200)

    async def list_of(
        self, conversation: ConversationId
    ) -> dict[tuple[UserId, ReceiptKind], int]:
        documents = await self.link.list("receipts", {"conversation": conversation})
        kinds: tuple[ReceiptKind, ...] = ("delivered", "read")
        return {
            (document["user"], kind): document[kind]
            for document in documents
            for kind in kinds
            if kind in document
        }
