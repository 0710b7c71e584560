"""What every HTTP answer carries, how large a request may be, and what a crash looks like."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from angarium.errors import AngariumError, TooLarge
from angarium.limits import REQUEST_BYTES_MAX
from angarium.telemetry.log import get_logger
from angarium.telemetry.metrics import LabelledCounter

HSTS = "max-age=31536000; includeSubDomains"
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Headers:
    """Outermost middleware. A page may set its own policy; what it sets is kept."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        https: bool = False,
        request_bytes_max: int = REQUEST_BYTES_MAX,
        responses: LabelledCounter | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._app, self._https, self._new_id = app, https, new_id
        self._request_bytes_max, self._responses = request_bytes_max, responses
        self._log = get_logger("angarium.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(
            receive, send, self._new_id(), self._request_bytes_max, self._https
        )
        scope.setdefault("state", {})["request_id"] = exchange.id
        try:
            exchange.check_declared(scope)
            await self._app(scope, exchange.receive, exchange.send)
            exchange.check_left()
        except AngariumError as error:
            await exchange.refuse(error)
        except Exception as error:
            # The sentence of an unknown error may hold content: its type and place must do.
            self._log.error(
                "request failed",
                request_id=exchange.id,
                path=route_of(scope),
                error=type(error).__name__,
                at=place_of(error),
            )
            await exchange.refuse(AngariumError(f"an internal error; request {exchange.id}"))
        if self._responses:
            self._responses.add(f"{exchange.status // 100}xx")


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, receive: Receive, send: Send, id: str, request_bytes_max: int, https: bool
    ) -> None:
        self.id, self.status = id, 0
        self._receive, self._send, self._https = receive, send, https
        self._left = self._max = request_bytes_max

    def check_declared(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._max):
                raise TooLarge(f"a request has at most {self._max} bytes")

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self.check_left()
        return message

    def check_left(self) -> None:
        if self._left < 0:
            raise TooLarge(f"a request has at most {self._max} bytes")

    async def send(self, message: Message) -> None:
        # The framework turns what `receive` raised into an answer of its own; ours counts.
        if self._left >= 0:
            await self._start_or_go_on(message)

    async def _start_or_go_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self._https:
                headers.setdefault("strict-transport-security", HSTS)
            headers["x-request-id"] = self.id
        await self._send(message)

    async def refuse(self, error: AngariumError) -> None:
        if self.status:
            return  # The answer has begun; the server cuts the connection.
        body = json.dumps(error_body(error)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        start = {"type": "http.response.start", "status": error.http_status, "headers": headers}
        await self._start_or_go_on(start)
        await self._send({"type": "http.response.body", "body": body})


def error_body(error: AngariumError) -> dict[str, Any]:
    """The one shape of every error: {"error": {"code", "message", ...}}."""
    return {"error": {**error.data(), "code": error.code, "message": str(error)}}


def route_of(scope: Scope) -> str:
    """The route's pattern, not the path: a path may name people."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def place_of(error: BaseException) -> str:
    """file:line where it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return (
        f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        if trace
        else ""
    )
