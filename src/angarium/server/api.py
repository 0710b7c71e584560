"""The HTTP app: every door of the node behind one set of headers and one shape of errors."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ExceptionHandler

from angarium import limits
from angarium.bus.contract import Bus
from angarium.clock import Clock
from angarium.errors import AngariumError, Malformed, NotFound, Unavailable
from angarium.keys.directory import Keys
from angarium.server.audit import AuditTrail
from angarium.server.auth import Tokens
from angarium.server.guard import Guard, Sleep
from angarium.server.headers import Headers, error_body
from angarium.server.health import Health
from angarium.server.limiter import RateCheck
from angarium.server.metrics_page import metrics_router
from angarium.server.roles import Roles
from angarium.server.routes_admin import AdminRoutes
from angarium.server.routes_blobs import BlobRoutes, NewBlob
from angarium.server.routes_conversations import ConversationRoutes, NewConversation
from angarium.server.routes_keys import (
    KeyRoutes,
    KeysClaim,
    KeysQuery,
    KeysUpload,
    SigningUpload,
)
from angarium.storage.contract import Store
from angarium.telemetry.metrics import Metrics

_MODELS = (KeysUpload, SigningUpload, KeysQuery, KeysClaim, NewConversation, NewBlob)
_BODY_FIELDS = frozenset(name for model in _MODELS for name in model.model_fields)


@dataclass(frozen=True, slots=True)
class WellKnown:
    """What a client learns before it has a token."""

    websocket_url: str
    gateway: str
    version: str

    def shape(self) -> dict[str, Any]:
        return {
            "websocket_url": self.websocket_url,
            "gateway": self.gateway,
            "version": self.version,
            "limits": {
                "frame_bytes_max": limits.FRAME_BYTES_MAX,
                "ciphertext_bytes_max": limits.CIPHERTEXT_BYTES_MAX,
                "request_bytes_max": limits.REQUEST_BYTES_MAX,
                "blob_bytes_max": limits.BLOB_BYTES_MAX,
                "blob_chunk_bytes": limits.BLOB_CHUNK_BYTES,
                "participants_max": limits.PARTICIPANTS_MAX,
                "devices_per_user_max": limits.DEVICES_PER_USER_MAX,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the HTTP API stands on; `node.py` puts it together."""

    store: Store
    keys: Keys
    bus: Bus
    clock: Clock
    tokens: Tokens
    audit: AuditTrail
    roles: Roles
    limiter: RateCheck | None
    well_known: WellKnown
    sleep: Sleep = asyncio.sleep


def api_routers(parts: ApiParts) -> list[APIRouter]:
    """The doors for clients and operators. Without `messaging`, leave them out of the app."""
    store, guard = parts.store, Guard(parts.tokens, parts.limiter, parts.sleep)
    keys = KeyRoutes(keys=parts.keys, roles=parts.roles, audit=parts.audit, guard=guard)
    conversations = ConversationRoutes(
        conversations=store.conversations,
        receipts=store.receipts,
        commands=store.commands,
        bus=parts.bus,
        clock=parts.clock,
        roles=parts.roles,
        audit=parts.audit,
        guard=guard,
    )
    blobs = BlobRoutes(
        blobs=store.blobs, conversations=store.conversations, clock=parts.clock, guard=guard
    )
    admin = AdminRoutes(
        audit=store.audit,
        trail=parts.audit,
        turns=store.turns,
        outbox=store.outbox,
        webhooks=store.webhooks,
        vault=store.vault,
        guard=guard,
    )
    routers = [part.router() for part in (keys, conversations, blobs, admin)]
    return [*routers, well_known_router(parts.well_known)]


def well_known_router(well_known: WellKnown) -> APIRouter:
    router = APIRouter(tags=["discovery"])

    async def show() -> dict[str, Any]:
        """Where the WebSocket is, who the gateway is, and what the bounds are."""
        return well_known.shape()

    router.add_api_route("/.well-known/angarium", show)
    return router


def make_app(
    *,
    version: str,
    health: Health,
    metrics: Metrics,
    routers: Sequence[APIRouter] = (),
    https: bool = False,
) -> FastAPI:
    """The ASGI app of a node: health, metrics, `/openapi.json` and the given doors."""
    app = FastAPI(
        title="Angarium",
        version=version,
        summary="Messages between people and AI agents.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # A redirect repeats the Host header; a wrong page is told.
    )
    for router in (health.router(), metrics_router(metrics), *routers):
        app.include_router(router)
    handlers: dict[type[Exception], ExceptionHandler] = {
        AngariumError: refuse,
        RequestValidationError: refuse_shape,
        HTTPException: refuse_route,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
    responses = metrics.labelled("http_responses_total", "HTTP answers by class.", "class")
    app.add_middleware(Headers, https=https, responses=responses)
    return app


def answer(error: AngariumError, status: int = 0) -> JSONResponse:
    """The error in its one shape, with Retry-After when waiting helps."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, -(-error.after_ms // 1000)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status or error.http_status, headers)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    return answer(error if isinstance(error, AngariumError) else AngariumError("internal"))


async def refuse_shape(request: Request, error: Exception) -> JSONResponse:
    """Names the field and the rule; never the value."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    told = [f"{_place(problem['loc'])}: {problem['type']}" for problem in problems[:5]]
    return answer(Malformed("; ".join(told) or "the request does not follow the API"))


async def refuse_route(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return answer(NotFound("there is no such page"))
    if status == 405:
        return answer(Malformed("this page does not take that method"), 405)
    return answer(Malformed("the request cannot be read"), status)


def _place(location: Sequence[Any]) -> str:
    # Deeper places, and names in the body that are not ours, come from the caller.
    place, *names = location[:2] or ("request",)
    known = [str(name) for name in names if place != "body" or name in _BODY_FIELDS]
    return ".".join([str(place), *known])
