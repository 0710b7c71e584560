"""The one way to a remote agent: bounded answers, no redirects, no proxies, secrets at home."""

from collections.abc import AsyncIterator, Collection, Mapping
from urllib.parse import urlsplit

import httpx

from angarium.errors import BadReply, TooLarge
from angarium.limits import A2A_ANSWER_BYTES_MAX, A2A_CALL_S, A2A_CONNECT_S
from angarium.sdk.api import trusted_by

CONNECTIONS_MAX = 512


def origin_of(url: str) -> str:
    """`scheme://host:port`; empty for what is no http URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname else ""


class BoundedTransport(httpx.AsyncBaseTransport):
    """Reaches `origins` only, adds `headers` there, and cuts answers off at `bytes_max`."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        origins: Collection[str],
        headers: Mapping[str, str],
        bytes_max: int = A2A_ANSWER_BYTES_MAX,
    ) -> None:
        self._inner, self._origins = inner, origins
        self._headers, self._bytes_max = headers, bytes_max

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises BadReply for another origin and for an encoded answer, whose size on the
        wire would say nothing about the size it unpacks to."""
        if origin_of(str(request.url)) not in self._origins:
            raise BadReply("a remote agent leads to another host; list it in `hosts`")
        request.headers["accept-encoding"] = "identity"
        request.headers.update(self._headers)
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise BadReply("a remote agent sends a content encoding it was not asked for")
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101
        stream = _Bounded(response.stream, self._bytes_max)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=stream,
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, bytes_max: int) -> None:
        self._inner, self._left, self._max = inner, bytes_max, bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._left -= len(piece)
            if self._left < 0:
                raise TooLarge(f"a remote agent's answer is over {self._max} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def make_client(
    origins: Collection[str], headers: Mapping[str, str], quiet_s: float
) -> httpx.AsyncClient:
    """A client for one remote agent; a stream that is silent for `quiet_s` has ended."""
    pool = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=16)
    trust = trusted_by(max(origins))  # `https` before `http`: only it needs authorities.
    inner = httpx.AsyncHTTPTransport(verify=trust, limits=pool, trust_env=False)
    wait = httpx.Timeout(A2A_CALL_S, connect=A2A_CONNECT_S, read=max(quiet_s, A2A_CALL_S))
    return httpx.AsyncClient(
        transport=BoundedTransport(inner, origins, headers),
        timeout=wait,
        trust_env=False,
        follow_redirects=False,
    )
