"""The HTTP API as a device sees it, and its httpx2 form.

Bodies about keys have the Matrix shapes. Every method raises the error class whose code the
server names, and Unavailable when the server does not answer.
"""

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import httpx2
import msgspec

from angarium.errors import AngariumError, Misconfigured, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.protocol.frames import Err
from angarium.protocol.outflow import refusal

_ERROR_FIELDS = ("after_ms", "expect_cs", "floor", "missing", "extra")

Token = Callable[[bool], Awaitable[str]]
"""token(fresh) -> a bearer token; `fresh`: the last one was refused as expired."""


class Api(Protocol):
    """What an endpoint asks of the server besides the socket."""

    async def upload_keys(self, upload: Mapping[str, Any]) -> dict[str, Any]: ...

    async def upload_identity(self, identity: Mapping[str, Any]) -> None: ...

    async def upload_signatures(self, signed: Mapping[str, Any]) -> None: ...

    async def query_keys(self, users: Sequence[UserId]) -> dict[str, Any]: ...

    async def claim_keys(self, wanted: Mapping[UserId, Sequence[DeviceId]]) -> dict[str, Any]:
        """{user: {device: {key_id: key}}}."""
        ...

    async def count_keys(self, device: DeviceId) -> int: ...

    async def create_conversation(
        self, users: Sequence[UserId], conversation: ConversationId | None, key: str
    ) -> dict[str, Any]: ...

    async def conversation(self, conversation: ConversationId) -> dict[str, Any]: ...

    async def conversations(self) -> list[dict[str, Any]]: ...

    async def receipts(self, conversation: ConversationId) -> dict[str, Any]: ...

    async def open_blob(self, blob: Mapping[str, Any]) -> dict[str, Any]: ...

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> None: ...

    async def find_blob(self, blob: str) -> dict[str, Any]: ...

    async def read_chunk(self, blob: str, index: int) -> bytes: ...

    async def close(self) -> None: ...


class HttpApi:
    """The API at `base_url` (e.g. `http://127.0.0.1:8460`)."""

    def __init__(
        self,
        base_url: str,
        token: Token,
        *,
        timeout_s: float = 20.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._token = token
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            timeout=timeout_s,
            transport=transport,
            trust_env=False,
            verify=trusted_by(base_url),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def upload_keys(self, upload: Mapping[str, Any]) -> dict[str, Any]:
        return await self._json("POST", "/v1/keys/upload", upload)

    async def upload_identity(self, identity: Mapping[str, Any]) -> None:
        await self._json("POST", "/v1/keys/signing/upload", identity)

    async def upload_signatures(self, signed: Mapping[str, Any]) -> None:
        await self._json("POST", "/v1/keys/signatures/upload", signed)

    async def query_keys(self, users: Sequence[UserId]) -> dict[str, Any]:
        return await self._json("POST", "/v1/keys/query", {"users": list(users)})

    async def claim_keys(self, wanted: Mapping[UserId, Sequence[DeviceId]]) -> dict[str, Any]:
        named = {
            user: dict.fromkeys(devices, "signed_curve25519")
            for user, devices in wanted.items()
        }
        answer = await self._json("POST", "/v1/keys/claim", {"one_time_keys": named})
        return dict(answer.get("one_time_keys", {}))

    async def count_keys(self, device: DeviceId) -> int:
        answer = await self._json("GET", f"/v1/keys/count?device={quote(device)}")
        return int(answer.get("signed_curve25519", 0))

    async def create_conversation(
        self, users: Sequence[UserId], conversation: ConversationId | None, key: str
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"participants": list(users)}
        if conversation is not None:
            body["id"] = conversation
        return await self._json(
            "POST", "/v1/conversations", body, headers={"Idempotency-Key": key}
        )

    async def conversation(self, conversation: ConversationId) -> dict[str, Any]:
        return await self._json("GET", f"/v1/conversations/{conversation}")

    async def conversations(self) -> list[dict[str, Any]]:
        answer = await self._json("GET", "/v1/conversations")
        return list(answer.get("conversations", []))

    async def receipts(self, conversation: ConversationId) -> dict[str, Any]:
        return await self._json("GET", f"/v1/conversations/{conversation}/receipts")

    async def open_blob(self, blob: Mapping[str, Any]) -> dict[str, Any]:
        return await self._json("POST", "/v1/blobs", blob)

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> None:
        path = f"/v1/blobs/{quote(blob)}/chunks/{index}"
        headers = {"Content-Type": "application/octet-stream"}
        await self._request("PUT", path, chunk, headers)

    async def find_blob(self, blob: str) -> dict[str, Any]:
        return await self._json("GET", f"/v1/blobs/{quote(blob)}")

    async def read_chunk(self, blob: str, index: int) -> bytes:
        return await self._request("GET", f"/v1/blobs/{quote(blob)}/chunks/{index}")

    async def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        content = None if body is None else msgspec.json.encode(body)
        sent = {"Content-Type": "application/json", **(headers or {})}
        answer = await self._request(method, path, content, sent)
        try:
            parsed = msgspec.json.decode(answer or b"{}")
        except msgspec.DecodeError:
            raise Unavailable("the server's answer is not JSON") from None
        return parsed if isinstance(parsed, dict) else {}

    async def _request(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        for fresh in (False, True):
            token = await self._token(fresh)
            try:
                response = await self._client.request(
                    method,
                    path,
                    content=content,
                    headers={**(headers or {}), "Authorization": f"Bearer {token}"},
                )
            except httpx2.TransportError as error:
                sentence = f"the server does not answer: {type(error).__name__}"
                raise Unavailable(sentence) from None
            if response.is_success:
                return response.content
            refused = error_of(response.status_code, response.content)
            if fresh or refused.code != "token_expired":
                raise refused
        raise AssertionError("unreachable")  # pragma: no cover


async def discover(base_url: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
    """The server's `/.well-known/angarium`: where its socket is, who its gateway is.

    Raises Unavailable.
    """
    try:
        async with httpx2.AsyncClient(
            timeout=timeout_s, trust_env=False, verify=trusted_by(base_url)
        ) as client:
            response = await client.get(base_url.rstrip("/") + "/.well-known/angarium")
    except httpx2.TransportError as error:
        sentence = f"no server at {base_url} ({type(error).__name__}); is it running?"
        raise Unavailable(sentence) from None
    try:
        found = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        found = None
    if not response.is_success or not isinstance(found, dict) or "websocket_url" not in found:
        raise Unavailable(f"{base_url} is not an Angarium server")
    return found


def trusted_by(base_url: str) -> ssl.SSLContext | bool:
    """Whom a client of this URL trusts: the usual authorities, those in the file that the
    variable SSL_CERT_FILE names, or for plain `http` nobody. Raises Misconfigured for a file
    that holds none.

    Loading the authorities stops the loop for tens of milliseconds, and a node makes a client
    for each contact. No redirect is followed, so that plain `http` never needs them.
    """
    if base_url.lower().startswith("http:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The WebSocket heeds it by itself; both must trust the same.
    named = os.environ.get("SSL_CERT_FILE")
    if not named:
        return True
    try:
        return ssl.create_default_context(cafile=named)
    except OSError as error:
        raise Misconfigured(f"SSL_CERT_FILE: {named}: {error.strerror or error}") from None


def error_of(status: int, content: bytes) -> AngariumError:
    """The error that an answer names by its code, as the class this program knows."""
    try:
        named = msgspec.json.decode(content)["error"]
        fields = {name: named[name] for name in _ERROR_FIELDS if name in named}
        err = msgspec.convert(
            {"t": "err", "id": 0, "code": named["code"], "why": named.get("message", "")}
            | fields,
            Err,
        )
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError):
        if status >= 500:
            return Unavailable(f"the server answered {status}")
        return AngariumError(f"the server answered {status}")
    return refusal(err)
