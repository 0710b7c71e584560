"""A very small HTTP/1.1 server on asyncio streams: enough for Twilio's REST API."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from angarium.errors import PortInUse

BODY_BYTES_MAX = 1024 * 1024
REQUEST_WAIT_S = 10.0  # A client that has not sent its request by then is cut off.


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, str]


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What is said to it. `silent`: `hang` never answers, `cut` closes without an answer."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    silent: str = ""


Handle = Callable[[ApiRequest], Awaitable[ApiAnswer]]


class ApiServer:
    """Serves `handle` on 127.0.0.1, one request a connection."""

    def __init__(self, handle: Handle, port: int = 0) -> None:
        self._handle, self._asked_port = handle, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises PortInUse."""
        try:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port or self._asked_port
            )
        except OSError:
            raise PortInUse(f"port {self._asked_port} is taken; choose another") from None
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut what is open; `start` may be called again on the same port."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if server is not None:
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            async with asyncio.timeout(REQUEST_WAIT_S):
                request = await _read(reader)
            answer = await self._handle(request)
            if answer.silent == "hang":
                await reader.read()  # Until the client has had enough.
            elif not answer.silent:
                _write(writer, answer)
                await writer.drain()
        except (OSError, EOFError, ValueError, TimeoutError):
            pass  # A client that left or spoke no HTTP: there is nobody to tell.
        except asyncio.CancelledError:
            pass  # `close` cut this connection; the task ends here, nothing waits behind it.
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> ApiRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= BODY_BYTES_MAX:
        raise ValueError("the request is too large")
    body = await reader.readexactly(length)
    url = urlsplit(target)
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    return ApiRequest(method, url.path, dict(parse_qsl(url.query)), headers, form)


def _write(writer: asyncio.StreamWriter, answer: ApiAnswer) -> None:
    body = json.dumps(answer.body).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **answer.headers,
    }
    lines = [
        f"HTTP/1.1 {answer.status} -",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
