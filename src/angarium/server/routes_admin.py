"""What operators see: states and times, never content, addresses or keys."""

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from angarium.agents.orders import put_order
from angarium.errors import Conflict, NotFound
from angarium.ids import ConversationId, check_uuid
from angarium.limits import AUDIT_PAGE_MAX
from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard, caller
from angarium.storage.contract import (
    TURN_FINAL,
    Audit,
    Outbox,
    Turn,
    Turns,
    TurnState,
    Vault,
    WebhookInbox,
)

Json = dict[str, Any]
Count = Query(50, ge=1, le=AUDIT_PAGE_MAX)
Sequence = Annotated[int, Path(ge=1, le=2**53)]
Before = Query(None, ge=1, le=2**62)


class AdminRoutes:
    """Doors for tokens with the scope `admin`. Looking is audited too."""

    def __init__(
        self,
        *,
        audit: Audit,
        trail: AuditTrail,
        turns: Turns,
        outbox: Outbox,
        webhooks: WebhookInbox,
        vault: Vault,
        guard: Guard,
    ) -> None:
        self._vault = vault
        self._audit, self._trail, self._guard = audit, trail, guard
        self._turns, self._outbox, self._webhooks = turns, outbox, webhooks

    def router(self) -> APIRouter:
        router = self._guard.router("operators", admin=True)
        for path, door in (
            ("/v1/admin/audit", self.audit),
            ("/v1/admin/turns", self.turns),
            ("/v1/admin/outbox", self.outbox),
            ("/v1/admin/webhooks/dead", self.dead_webhooks),
        ):
            router.add_api_route(path, door, methods=["GET"])
        turn = "/v1/admin/turns/{conversation}/{sequence}"
        router.add_api_route(turn, self.turn, methods=["GET"])
        router.add_api_route(turn + "/replay", self.replay, methods=["POST"], status_code=202)
        router.add_api_route(turn + "/cancel", self.cancel, methods=["POST"], status_code=202)
        return router

    async def audit(
        self, request: Request, limit: int = Count, before: int | None = Before
    ) -> Json:
        """The audit log, newest first; `before` is the id to go on from."""
        await self._looked(request, "audit")
        entries = await self._audit.list(limit, before)
        return {"entries": [asdict(entry) for entry in entries]}

    async def turns(
        self, request: Request, limit: int = Count, state: TurnState | None = None
    ) -> Json:
        """Agents' turns, newest first."""
        await self._looked(request, "turns")
        found = await self._turns.list_recent(limit, state)
        return {"turns": [shown(turn) for turn in found]}

    async def turn(self, request: Request, conversation: str, sequence: Sequence) -> Json:
        """One turn, with what its agent did."""
        await self._looked(request, f"turns/{conversation}/{sequence}")
        return shown(await self._find(conversation, sequence))

    async def replay(self, request: Request, conversation: str, sequence: Sequence) -> Json:
        """Have a failed turn begun again, in the background. What its tools have done counts as
        done. Its answer is one more message. 409 when nothing is kept of it any more."""
        async with self._command(request, "turn.replay", conversation, sequence):
            turn = await self._find(conversation, sequence)
            if turn.state != "failed" or not turn.body:
                raise Conflict("only a turn that has failed, and not long ago, can be replayed")
            await self._vault.write([put_order("replay", turn.conversation, turn.sequence)])
        return {"ordered": "replay"}

    async def cancel(self, request: Request, conversation: str, sequence: Sequence) -> Json:
        """Have an open turn ended, in the background; the person is told. 409 when it has
        ended."""
        async with self._command(request, "turn.cancel", conversation, sequence):
            turn = await self._find(conversation, sequence)
            if turn.state in TURN_FINAL:
                raise Conflict("the turn has ended already")
            await self._vault.write([put_order("cancel", turn.conversation, turn.sequence)])
        return {"ordered": "cancel"}

    def _command(
        self, request: Request, action: str, conversation: str, sequence: int
    ) -> AbstractAsyncContextManager[None]:
        target = f"{conversation}/{sequence}"
        return self._trail.command(caller(request).user, action, target)

    async def _find(self, conversation: str, sequence: int) -> Turn:
        found = await self._turns.find(ConversationId(check_uuid(conversation)), sequence)
        if found is None:
            raise NotFound("there is no such turn")
        return found

    async def outbox(self, request: Request, limit: int = Count) -> Json:
        """Deliveries to channels, newest first."""
        await self._looked(request, "outbox")
        found = await self._outbox.list_recent(limit)
        shown = [without(asdict(delivery), ("body",)) for delivery in found]
        for delivery in shown:
            delivery["contact"] = self._trail.pseudonym(delivery["contact"])
        return {"deliveries": shown}

    async def dead_webhooks(self, request: Request, limit: int = Count) -> Json:
        """Webhooks that were given up."""
        await self._looked(request, "webhooks/dead")
        found = await self._webhooks.list_dead(limit)
        return {"webhooks": [without(asdict(entry), ("raw",)) for entry in found]}

    async def _looked(self, request: Request, what: str) -> None:
        await self._trail.record(caller(request).user, "admin.read", what, "done")


def shown(turn: Turn) -> Json:
    """What operators see of a turn; `replayable`: it failed, and what it needs is kept."""
    fields = without(asdict(turn), ("body", "progress", "trace"))
    work = json.loads(turn.trace) if turn.trace else {}
    return {**fields, "replayable": turn.state == "failed" and bool(turn.body), "work": work}


def without(record: Json, hidden: tuple[str, ...]) -> Json:
    return {name: value for name, value in record.items() if name not in hidden}
