"""Calls of agents that run elsewhere: one client each, errors told apart, answers bounded."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import SecretStr

from angarium.agents.contract import Host
from angarium.clock import Clock, SystemClock
from angarium.errors import (
    AgentFailed,
    BadReply,
    Misconfigured,
    ReplyCutOff,
    TooLarge,
    Unavailable,
)
from angarium.limits import (
    REMOTE_BODY_BYTES_MAX,
    REMOTE_CONNECT_WAIT_S,
    REMOTE_CONNECTIONS_MAX,
    REMOTE_DRAIN_S,
    REMOTE_IDLE_S,
    REMOTE_RETRY_AFTER_S_MAX,
    REMOTE_STREAM_BYTES_MAX,
)
from angarium.resilience import classify
from angarium.sdk.api import trusted_by

_AGAIN = frozenset({408, 425, 429, 502, 503, 504})
Secret = SecretStr | str


class Caller:
    """One service elsewhere. Follows no redirects and asks no proxy; plain bytes only.

    `silence_s` is how long it may say nothing. Raises Misconfigured for a URL that is none.
    """

    def __init__(self, url: str, *, silence_s: float, clock: Clock | None = None) -> None:
        self.url = check_url(url)
        self._silence_s, self._clock = silence_s, clock or SystemClock()
        self._client: httpx2.AsyncClient | None = None
        self._host: Host | None = None

    @property
    def provider(self) -> str:
        """The name of the breaker that all agents on this service share."""
        return f"provider:{urlsplit(self.url).netloc}"

    def open(self, host: Host) -> None:
        """Share the breakers of `host` from now on."""
        self._host = host

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def post(
        self, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        """The answer to a POST, its status good and its body not read yet.

        Before the body Unavailable says that the same may work later; once the block reads,
        a broken connection is ReplyCutOff. Raises Misconfigured where the service refuses our
        key, AgentFailed for other refusals, BadReply for an answer that is none.
        """
        admission = None
        if self._host is not None:
            admission = await self._host.breaker(self.provider).admit()
        try:
            async with self._send(body, headers) as response:
                check_status(response, self._clock.now_ms())
                try:
                    yield response
                except httpx2.HTTPError:
                    raise ReplyCutOff("the connection broke during the answer") from None
        except BaseException as error:
            if admission is not None:
                _settle(admission, error)
            raise
        if admission is not None:
            admission.settle(failed=False)

    @asynccontextmanager
    async def _send(
        self, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        client = self._connected()
        asked = {**headers, "accept-encoding": "identity"}
        request = client.build_request("POST", self.url, content=body, headers=asked)
        try:
            response = await client.send(request, stream=True)
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.LocalProtocolError):
            raise Misconfigured(f"{self.provider} cannot be called; see its URL") from None
        except httpx2.HTTPError as error:
            name = type(error).__name__
            raise Unavailable(f"{self.provider} does not answer ({name})") from None
        try:
            yield response
        finally:
            await response.aclose()

    def _connected(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._silence_s, connect=REMOTE_CONNECT_WAIT_S),
                limits=httpx2.Limits(
                    max_connections=REMOTE_CONNECTIONS_MAX,
                    max_keepalive_connections=REMOTE_CONNECTIONS_MAX,
                    keepalive_expiry=REMOTE_IDLE_S,
                ),
                trust_env=False,
                verify=trusted_by(self.url),
            )
        return self._client


def _settle(admission: Any, error: BaseException) -> None:
    if not isinstance(error, Exception):
        admission.release()  # Stopped from outside: nothing is known.
    else:
        admission.settle(failed=classify(error) == "retry" or isinstance(error, ReplyCutOff))


def check_url(url: str) -> str:
    """Raises Misconfigured unless it is an http(s) URL without a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise Misconfigured("the URL of a remote agent begins with http:// or https://")
    if parts.username or parts.password:
        raise Misconfigured("the URL of a remote agent holds no password; use api_key")
    return url


def check_status(response: httpx2.Response, now_ms: int) -> None:
    """Raises what the status says; see `Caller.post`. Never repeats what the body says."""
    status = response.status_code
    if 200 <= status < 300:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise BadReply("the answer is compressed, which was not asked for")
        return
    if status in _AGAIN:
        after_ms = retry_after_ms(response.headers.get("retry-after", ""), now_ms)
        raise Unavailable(f"the remote agent answers {status}", after_ms)
    if status in (401, 403):
        raise Misconfigured(f"the remote agent answers {status}; check its api_key")
    if status == 413:
        raise TooLarge("the remote agent finds the message too large")
    if 300 <= status < 400:
        raise BadReply("the remote agent redirects; set the URL that it redirects to")
    raise AgentFailed(f"the remote agent answers {status}")


def retry_after_ms(value: str, now_ms: int) -> int:
    """Retry-After, seconds or a date, as milliseconds from now; bounded, at least 1 s."""
    try:
        after_s = float(value) if value else 1.0
    except ValueError:
        try:
            after_s = parsedate_to_datetime(value).timestamp() - now_ms / 1000
        except (ValueError, TypeError, OverflowError):
            after_s = 1.0
    if not after_s >= 1.0:  # Also what is no number.
        after_s = 1.0
    return round(min(after_s, REMOTE_RETRY_AFTER_S_MAX) * 1000)


async def read_body(response: httpx2.Response, bytes_max: int = REMOTE_BODY_BYTES_MAX) -> bytes:
    """The whole body. Raises TooLarge as soon as that is known."""
    chunks = [chunk async for chunk in read_stream(response, bytes_max)]
    return b"".join(chunks)


async def read_stream(
    response: httpx2.Response, bytes_max: int = REMOTE_STREAM_BYTES_MAX
) -> AsyncIterator[bytes]:
    """The body in pieces as they come. Raises TooLarge."""
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > bytes_max:
        raise TooLarge(f"the answer has over {bytes_max} bytes")
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > bytes_max:
            raise TooLarge(f"the answer has over {bytes_max} bytes")
        yield chunk


async def drain(body: AsyncIterator[bytes]) -> None:
    """What follows the end of an answer is not looked at; where it comes at once, it is read,
    so that the connection can be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REMOTE_DRAIN_S):
            async for _ in body:
                pass


def decode(body: bytes) -> str:
    """Raises BadReply for what is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadReply("the answer is not UTF-8") from None


def parse_json(text: str) -> Any:
    """Raises BadReply for what is not JSON, or nested too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadReply("the answer is not JSON") from None


def media_type(response: httpx2.Response) -> str:
    """The content type, lower case, without parameters."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def secret_of(given: Secret | None, environ: Mapping[str, str] = os.environ) -> str:
    """The secret, or what the environment variable of that name holds; empty where none was
    given. Raises Misconfigured where the variable is not set."""
    if given is None or given == "":
        return ""
    if isinstance(given, SecretStr):
        return given.get_secret_value()
    found = environ.get(given, "")
    if not found:
        # Not named: whoever writes the key itself here must not find it in a log.
        raise Misconfigured("api_key names an environment variable that is set, or is a Secret")
    return found
