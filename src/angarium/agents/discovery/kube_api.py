"""The two calls of the Kubernetes API that discovery needs: list, and watch from there on."""

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET
from typing import Any

import httpx2

from angarium.errors import BadReply, Forbidden, Misconfigured, NotFound, TooLarge, Unavailable
from angarium.limits import (
    KUBE_ANSWER_S,
    KUBE_LINE_BYTES_MAX,
    KUBE_OBJECTS_MAX,
    KUBE_PAGE_BYTES_MAX,
    KUBE_PAGE_OBJECTS,
    KUBE_WATCH_LATE_S,
)

Object = Mapping[str, Any]
_KEEPALIVE = [
    (SOL_SOCKET, SO_KEEPALIVE, 1),
    *((IPPROTO_TCP, n, v) for n, v in ((4, 15), (5, 5))),
]
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class TooOld(Exception):
    """The API no longer knows what happened since that version (410): list again."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything there is at `version`."""

    objects: list[Object]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object: ADDED, MODIFIED, DELETED, BOOKMARK or a newer word."""

    kind: str
    object: Object


class KubeApi:
    """Asks with the token as it is now: the cluster replaces the file every hour.

    Follows no redirects, asks no proxy. Every call raises Unavailable when the API is away or
    too busy, Forbidden when it does not let us, NotFound when it has no such kind of object,
    and BadReply for what is none.
    """

    def __init__(self, url: str, *, token: Callable[[], str], ca_file: str = "") -> None:
        """Raises Misconfigured for a certificate file that cannot be read."""
        self._token = token
        transport = httpx2.AsyncHTTPTransport(
            verify=_trust(ca_file), socket_options=_KEEPALIVE, trust_env=False
        )
        self._http = httpx2.AsyncClient(
            base_url=url, transport=transport, timeout=KUBE_ANSWER_S, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def list(self, path: str, selector: str) -> Listing:
        """All objects that the selector takes, page by page. Raises TooLarge over
        KUBE_OBJECTS_MAX, TooOld when the pages outlived their version."""
        objects: list[Object] = []
        asked = {"labelSelector": selector, "limit": str(KUBE_PAGE_OBJECTS)}
        while True:
            page = await self._page(path, asked)
            metadata = page.get("metadata")
            items = page.get("items")
            if not isinstance(metadata, dict) or not isinstance(items, list | None):
                raise BadReply("the Kubernetes API gave a list that is none")
            objects += [each for each in items or () if isinstance(each, dict)]
            if len(objects) > KUBE_OBJECTS_MAX:
                raise TooLarge(f"more than {KUBE_OBJECTS_MAX} objects; narrow the selector")
            following = metadata.get("continue")
            if not following:
                return Listing(objects, _text(metadata.get("resourceVersion")))
            asked["continue"] = _text(following)

    async def watch(
        self, path: str, selector: str, version: str, watch_s: int
    ) -> AsyncGenerator[Change, None]:
        """What happens from `version` on, until the API ends the watch after `watch_s`."""
        asked = {
            "labelSelector": selector,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(watch_s),
        }
        patience = httpx2.Timeout(KUBE_ANSWER_S, read=watch_s + KUBE_WATCH_LATE_S)
        async with self._ask(path, asked, patience) as response:
            buffer = b""
            async for piece in response.aiter_bytes():
                *lines, buffer = (buffer + piece).split(b"\n")
                if len(buffer) > KUBE_LINE_BYTES_MAX:
                    raise BadReply("the Kubernetes API gave an object that is too large")
                for line in lines:
                    if line.strip():
                        yield _change(line)

    async def _page(self, path: str, asked: dict[str, str]) -> dict[str, Any]:
        async with self._ask(path, asked, httpx2.Timeout(KUBE_ANSWER_S)) as response:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > KUBE_PAGE_BYTES_MAX:
                    raise TooLarge("the Kubernetes API gave a page that is too large")
            return _object(bytes(body))

    @asynccontextmanager
    async def _ask(
        self, path: str, asked: dict[str, str], patience: httpx2.Timeout
    ) -> AsyncIterator[httpx2.Response]:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if token := self._token():
            headers["authorization"] = f"Bearer {token}"
        try:
            async with self._http.stream(
                "GET", path, params=asked, headers=headers, timeout=patience
            ) as response:
                _check(response, path)
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise Unavailable(f"the Kubernetes API: {type(error).__name__}") from None


def token_reader(path: Path) -> Callable[[], str]:
    """Reads the token anew for each request; none where the file is not there."""

    def read() -> str:
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    return read


def _check(response: httpx2.Response, path: str) -> None:
    status = response.status_code
    if status == 200:
        return
    if status == 410:
        raise TooOld
    if status == 403:
        raise Forbidden(f"Kubernetes refuses {path}: let the service account list and watch it")
    if status == 404:
        raise NotFound(f"this cluster has no {path}")
    after = response.headers.get("retry-after", "")
    after_ms = min(int(after), 60) * 1000 if after.isascii() and after.isdigit() else 1000
    raise Unavailable(f"the Kubernetes API answered {status}", after_ms)


def _change(line: bytes) -> Change:
    event = _object(line)
    kind, changed = event.get("type"), event.get("object")
    if not isinstance(kind, str) or not isinstance(changed, dict):
        raise BadReply("the Kubernetes API gave an event that is none")
    if kind == "ERROR":
        if changed.get("code") == 410:
            raise TooOld
        raise Unavailable("the Kubernetes API ended the watch")
    return Change(kind, changed)


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadReply("the Kubernetes API gave no JSON") from None
    if not isinstance(found, dict):
        raise BadReply("the Kubernetes API gave JSON that is no object")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadReply("the Kubernetes API gave no version")
    return value


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"the Kubernetes certificate {ca_file!r}: {error}") from None
