"""The door for providers' webhooks: verify, store raw and sealed, answer."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from angarium.channels.contract import Channel, WebhookRequest
from angarium.clock import Clock
from angarium.errors import AngariumError, TooLarge, Unavailable
from angarium.kms.contract import Sealer
from angarium.limits import WEBHOOK_BYTES_MAX
from angarium.model.webhook import pack_webhook, webhook_place
from angarium.server.headers import error_body
from angarium.storage.contract import WebhookInbox


def webhook_router(
    *,
    channel: Channel,
    inbox: WebhookInbox,
    seal: Sealer,
    clock: Clock,
    public_base_url: str,
    wake: Callable[[], None],
) -> APIRouter:
    """`POST /webhooks/<channel>` and `.../status`: 204 once the payload is durable.

    A forged webhook gets 403 and leaves nothing behind. A repeated one gets 204 again. When it
    could not be stored the answer is 503, which the provider repeats. `wake` is called after a
    new payload was stored. The signature is checked over `public_base_url`, never over `Host`.
    """
    router = APIRouter(tags=["webhooks"])

    async def receive(request: Request) -> Response:
        try:
            asked = WebhookRequest(
                _public_url(public_base_url, request),
                request.method,
                {name.lower(): value for name, value in request.headers.items()},
                await _bounded_body(request),
            )
            channel.verify(asked)
            event = channel.event_id(asked)
            raw = seal.seal(
                pack_webhook(asked.url, asked.body), webhook_place(channel.name, event)
            )
            if await inbox.put(channel.name, event, raw, clock.now_ms()):
                wake()
        except AngariumError as error:
            return _refuse(error)
        return Response(status_code=204)

    for path in (f"/webhooks/{channel.name}", f"/webhooks/{channel.name}/status"):
        router.add_api_route(
            path, receive, methods=["POST"], status_code=204, response_class=Response,
            summary=f"Webhook of {channel.name}, signed by the provider.",
        )  # fmt: skip
    return router


def _public_url(public_base_url: str, request: Request) -> str:
    query = request.scope.get("query_string", b"").decode("latin-1")
    return f"{public_base_url}{request.url.path}{'?' + query if query else ''}"


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > WEBHOOK_BYTES_MAX:
            raise TooLarge(f"a webhook has at most {WEBHOOK_BYTES_MAX} bytes")
    return bytes(body)


def _refuse(error: AngariumError) -> JSONResponse:
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, round(error.after_ms / 1000)))
    return JSONResponse(error_body(error), error.http_status, headers)
