"""Operators take conversations over from agents, answer, hand back. No content comes out."""

from typing import Any

from fastapi import APIRouter, Header, Query, Request
from msgspec.structs import asdict
from pydantic import BaseModel, Field

from angarium.agents.operators import Operators
from angarium.agents.spend import Spend
from angarium.errors import NotFound
from angarium.ids import ConversationId, UserId, check_uuid
from angarium.limits import OPERATOR_NAME_CHARS_MAX, REPLY_BYTES_MAX
from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard, caller
from angarium.storage.contract import Conversations

Json = dict[str, Any]
Call = Header("", alias="Idempotency-Key", max_length=36)
Day = Query("", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
ACCEPTED = 202


class TakeOver(BaseModel):
    """`name` is what the person is told; empty: "a person"."""

    name: str = Field("", max_length=OPERATOR_NAME_CHARS_MAX)


class HumanReply(BaseModel):
    """What the operator says."""

    text: str = Field(min_length=1, max_length=REPLY_BYTES_MAX)


class TakeoverRoutes:
    """Doors for tokens with the scope `admin`; every call is audited, without its content.

    An `Idempotency-Key` is a UUID: the same again is the same call.
    """

    def __init__(
        self,
        *,
        operators: Operators,
        spend: Spend,
        conversations: Conversations,
        gateway: UserId,
        trail: AuditTrail,
        guard: Guard,
    ) -> None:
        self._operators, self._conversations = operators, conversations
        self._spend = spend
        self._gateway, self._trail, self._guard = gateway, trail, guard

    def router(self) -> APIRouter:
        router = self._guard.router("operators", admin=True)
        router.add_api_route("/v1/admin/takeovers", self.takeovers, methods=["GET"])
        router.add_api_route("/v1/admin/spend", self.spend, methods=["GET"])
        for verb, door in (
            ("takeover", self.take_over),
            ("reply", self.reply),
            ("handback", self.hand_back),
        ):
            router.add_api_route(
                f"/v1/admin/conversations/{{conversation}}/{verb}",
                door,
                methods=["POST"],
                status_code=ACCEPTED,
            )
        return router

    async def takeovers(self, request: Request) -> Json:
        """Conversations that people have or are waited for, the longest waiting first."""
        await self._trail.record(caller(request).user, "admin.read", "takeovers", "done")
        return {"takeovers": [asdict(taken) for taken in await self._operators.taken()]}

    async def spend(self, request: Request, day: str = Day) -> Json:
        """What agents have spent, by agent and by person."""
        await self._trail.record(caller(request).user, "admin.read", "spend", "done")
        people = await self._spend.sums_usd("person", day)
        return {
            "agents": await self._spend.sums_usd("agent", day),
            "people": {self._trail.pseudonym(user): usd for user, usd in people.items()},
        }

    async def take_over(
        self, request: Request, conversation: str, body: TakeOver, call: str = Call
    ) -> Json:
        """Agents are silent there from now on."""
        operator = caller(request).user
        async with self._trail.command(operator, "conversation.takeover", conversation):
            place = await self._place(conversation)
            return {"id": await self._operators.take_over(place, operator, body.name, call)}

    async def reply(
        self, request: Request, conversation: str, body: HumanReply, call: str = Call
    ) -> Json:
        """Say something there, as a human."""
        operator = caller(request).user
        async with self._trail.command(operator, "conversation.reply", conversation):
            place = await self._place(conversation)
            return {"id": await self._operators.reply(place, operator, body.text, call)}

    async def hand_back(self, request: Request, conversation: str, call: str = Call) -> Json:
        """Agents answer there again."""
        operator = caller(request).user
        async with self._trail.command(operator, "conversation.handback", conversation):
            place = await self._place(conversation)
            return {"id": await self._operators.hand_back(place, operator, call)}

    async def _place(self, conversation: str) -> ConversationId:
        """Raises Malformed, and NotFound where our agents do not take part."""
        place = ConversationId(check_uuid(conversation))
        found = await self._conversations.find(place)
        if found is None or self._gateway not in {one.user for one in found.participants}:
            raise NotFound("there is no such conversation with agents")
        return place
