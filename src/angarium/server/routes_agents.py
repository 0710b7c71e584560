"""What operators see of the agents of the node that answers."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request

from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard, caller

Json = dict[str, Any]


class AgentsRoutes:
    """A door for tokens with the scope `admin`. Looking is audited."""

    def __init__(self, *, look: Callable[[], Json], trail: AuditTrail, guard: Guard) -> None:
        self._look, self._trail, self._guard = look, trail, guard

    def router(self) -> APIRouter:
        router = self._guard.router("operators", admin=True)
        router.add_api_route("/v1/admin/agents", self.agents, methods=["GET"])
        return router

    async def agents(self, request: Request) -> Json:
        """The agents of this node: kind, source, readiness, breaker, turns, instances."""
        await self._trail.record(caller(request).user, "admin.read", "agents", "done")
        return self._look()
