"""What operators see: states and times, never content, addresses or keys."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query, Request

from angarium.limits import AUDIT_PAGE_MAX
from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard, caller
from angarium.storage.contract import Audit, Outbox, Turns, TurnState, WebhookInbox

Json = dict[str, Any]
Count = Query(50, ge=1, le=AUDIT_PAGE_MAX)
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
        guard: Guard,
    ) -> None:
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
        hidden = ("body", "progress", "reply")
        found = await self._turns.list_recent(limit, state)
        return {"turns": [without(asdict(turn), hidden) for turn in found]}

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


def without(record: Json, hidden: tuple[str, ...]) -> Json:
    return {name: value for name, value in record.items() if name not in hidden}
