"""Conversations and their participants over HTTP."""

import asyncio
import hashlib
import json
from typing import Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field

from angarium.bus.contract import Bus, Event, Joined, Left
from angarium.clock import Clock
from angarium.errors import (
    Forbidden,
    KeyReused,
    Malformed,
    NotFound,
    Refused,
    Unavailable,
)
from angarium.ids import ConversationId, UserId, check_user_id, check_uuid, uuid7
from angarium.limits import (
    CONVERSATIONS_LEFT_MAX,
    CONVERSATIONS_PER_USER_MAX,
    PARTICIPANTS_MAX,
)
from angarium.model.conversation import Conversation
from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard, caller
from angarium.server.roles import Roles
from angarium.storage.contract import Commands, Conversations, Receipts

Json = dict[str, Any]
STAGE, BETWEEN = "conversations.create", "conversations.between"
KEY_CHARS_MAX = 200
_TOO_MANY = f"a person takes part in at most {CONVERSATIONS_PER_USER_MAX} conversations"
_FULL = f"a conversation has at most {PARTICIPANTS_MAX} participants"


class NewConversation(BaseModel):
    """Users to talk with; the caller takes part in any case."""

    participants: list[str] = Field(min_length=1, max_length=PARTICIPANTS_MAX)
    id: str | None = None


class ConversationRoutes:
    """Doors to conversations. Who does not take part does not learn that one exists."""

    def __init__(
        self,
        *,
        conversations: Conversations,
        receipts: Receipts,
        commands: Commands,
        bus: Bus,
        clock: Clock,
        roles: Roles,
        audit: AuditTrail,
        guard: Guard,
    ) -> None:
        self._conversations, self._receipts, self._commands = conversations, receipts, commands
        self._bus, self._clock, self._roles = bus, clock, roles
        self._audit, self._guard = audit, guard
        # Two devices of one user that ask at once must get one conversation, and what is
        # counted must hold until it is written.
        self._growing = asyncio.Lock()

    def router(self) -> APIRouter:
        router = self._guard.router("conversations")
        root = "/v1/conversations"
        router.add_api_route(root, self.create, methods=["POST"])
        router.add_api_route(root, self.list_own, methods=["GET"])
        router.add_api_route(root + "/{id}", self.show, methods=["GET"])
        router.add_api_route(root + "/{id}/receipts", self.receipts, methods=["GET"])
        member = root + "/{id}/participants/{user}"
        router.add_api_route(member, self.add, methods=["PUT"])
        router.add_api_route(member, self.remove, methods=["DELETE"])
        return router

    async def create(
        self,
        request: Request,
        body: NewConversation,
        idempotency_key: str = Header("", max_length=KEY_CHARS_MAX),
    ) -> Json:
        """Create a conversation, or return the one that exists: of this `id`, or (without `id`)
        among exactly these users. An Idempotency-Key gives the same answer for 24 hours."""
        user = caller(request).user
        users = sorted({*map(check_user_id, body.participants), user})
        if len(users) > PARTICIPANTS_MAX:
            raise Refused(_FULL)
        asked = hashlib.sha256(json.dumps([users, body.id]).encode()).hexdigest()
        self._check_invited(user, users)
        stage, now_ms = f"{STAGE}/{user}", self._clock.now_ms()
        earlier = None
        if idempotency_key:
            earlier = await self._commands.find(stage, idempotency_key, now_ms)
        if earlier is not None:
            return await self._answered(request, json.loads(earlier), asked)
        found = await self._find_or_create(user, users, body.id)
        if idempotency_key:
            answer = json.dumps({"asked": asked, "id": found.id}).encode()
            counts = await self._commands.remember(stage, idempotency_key, answer, now_ms)
            return await self._answered(request, json.loads(counts), asked)
        return shape_of(found)

    async def list_own(self, request: Request) -> Json:
        """Conversations one takes part in, oldest first."""
        found = await self._conversations.list_of(caller(request).user)
        return {"conversations": [shape_of(conversation) for conversation in found]}

    async def show(self, request: Request, id: str) -> Json:
        """One conversation, to its participants."""
        return shape_of(await self._own(request, id))

    async def receipts(self, request: Request, id: str) -> Json:
        """How far each participant has received and read: {user: {delivered, read}}."""
        conversation = await self._own(request, id)
        marks: dict[str, dict[str, int]] = {}
        for (user, kind), sequence in (await self._receipts.list_of(conversation.id)).items():
            marks.setdefault(user, {})[kind] = sequence
        return {"receipts": marks}

    async def add(self, request: Request, id: str, user: str) -> Json:
        """Add a participant; persons may. They read what is sent from then on."""
        conversation, added = await self._own(request, id), check_user_id(user)
        by = caller(request).user
        async with self._audit.command(by, "participant.add", f"{id} {added}"):
            if self._roles.of(by) != "person":
                raise Forbidden("only persons add participants")
            self._check_invited(by, [added])
            if not conversation.has(added):
                if len(conversation.participants) >= PARTICIPANTS_MAX:
                    raise Refused(_FULL)
                async with self._growing:
                    conversation = await self._add(conversation.id, added)
        return shape_of(conversation)

    async def _add(self, id: ConversationId, added: UserId) -> Conversation:
        await self._check_room([added])
        found = await self._conversations.add(id, self._roles.participant(added))
        if len(found.participants) > PARTICIPANTS_MAX:
            # Others were added since the caller looked.
            await self._conversations.remove(id, added)
            raise Refused(_FULL)
        self._bus.publish([Joined(id, added)])
        return found

    async def remove(self, request: Request, id: str, user: str) -> Json:
        """Leave, or (persons) remove another participant."""
        conversation, removed = await self._own(request, id), check_user_id(user)
        by = caller(request).user
        async with self._audit.command(by, "participant.remove", f"{id} {removed}"):
            if by != removed and self._roles.of(by) != "person":
                raise Forbidden("only persons remove others")
            if conversation.has(removed):
                conversation = await self._conversations.remove(conversation.id, removed)
                self._bus.publish([Left(conversation.id, removed)])
        return shape_of(conversation)

    async def _own(self, request: Request, id: str) -> Conversation:
        found = await self._conversations.find(ConversationId(check_uuid(id)))
        if found is None or not found.has(caller(request).user):
            raise NotFound("you take part in no such conversation")
        return found

    async def _answered(self, request: Request, earlier: Json, asked: str) -> Json:
        if earlier["asked"] != asked:
            raise KeyReused("this Idempotency-Key was used for another request")
        return shape_of(await self._own(request, earlier["id"]))

    async def _find_or_create(
        self, user: UserId, users: list[UserId], id: str | None
    ) -> Conversation:
        wanted = ConversationId(check_uuid(id)) if id else None
        async with self._growing:
            if wanted:
                found = await self._conversations.find(wanted)
            else:
                found = await self._conversations.find_between(users)
            if found is None and len(users) < 2:
                raise Malformed("a conversation has at least two participants")
            if found is None and wanted:
                found = await self._create(user, wanted, users)
            elif found is None:
                found = await self._create_between(user, users)
        if not found.has(user):
            raise Forbidden("this id names another conversation; choose a new one")
        return found

    async def _create_between(self, user: UserId, users: list[UserId]) -> Conversation:
        """A new conversation of exactly these users, the same one whichever nodes are asked
        at once: the store keeps the first id that was chosen. Raises Unavailable."""
        before = ""
        for _ in range(CONVERSATIONS_LEFT_MAX):
            asked = hashlib.sha256(json.dumps([users, before]).encode()).hexdigest()
            now_ms = self._clock.now_ms()
            chosen = await self._commands.remember(
                BETWEEN, asked, uuid7(now_ms).encode(), now_ms
            )
            id = ConversationId(chosen.decode())
            found = await self._conversations.find(id) or await self._create(user, id, users)
            if {each.user for each in found.participants} == set(users):
                return found
            before = id  # Since it was chosen somebody left it, or came.
        raise Unavailable("these people began and left too many conversations today")

    def _check_invited(self, by: UserId, users: list[UserId]) -> None:
        """What a contact's conversation says is sent to a phone, so nobody but the bridge opens
        one with a contact. Raises Forbidden."""
        contacts = [user for user in users if self._roles.of(user) == "bridge"]
        if contacts and self._roles.of(by) == "person":
            raise Forbidden("contacts of a channel are not brought in by others")

    async def _check_room(self, users: list[UserId]) -> None:
        """Raises Refused when a person among them takes part in too many conversations."""
        for user in users:
            if self._roles.of(user) == "person":
                listed = await self._conversations.list_of(user)
                if len(listed) >= CONVERSATIONS_PER_USER_MAX:
                    raise Refused(_TOO_MANY)

    async def _create(
        self, user: UserId, id: ConversationId, users: list[UserId]
    ) -> Conversation:
        async with self._audit.command(user, "conversation.create", id):
            await self._check_room(users)
            participants = [self._roles.participant(member) for member in users]
            created = await self._conversations.create(id, participants, self._clock.now_ms())
        joined: list[Event] = [Joined(created.id, member) for member in users]
        self._bus.publish(joined)
        return created


def shape_of(conversation: Conversation) -> Json:
    """A conversation as clients see it."""
    return {
        "id": conversation.id,
        "epoch": conversation.epoch,
        "participants": [
            {"user": participant.user, "role": participant.role}
            for participant in conversation.participants
        ],
        "created_ms": conversation.created_ms,
    }
