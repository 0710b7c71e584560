"""uvicorn inside the running loop: bind first, so that a taken port is a clear sentence."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from angarium.errors import Misconfigured, PortInUse
from angarium.limits import HTTP_CONNECTIONS_MAX, HTTP_STOP_WAIT_S

BACKLOG = 1024


class HttpServer:
    """Serves an ASGI app on one address. The owner of signals is the node, not this."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        """`port` 0 takes any free one."""
        self._app, self._host = app, host
        self.port = port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; returns when requests are accepted and `port` is the real one.

        Raises PortInUse, Misconfigured.
        """
        listener = bind(self._host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=HTTP_CONNECTIONS_MAX,
            timeout_graceful_shutdown=int(HTTP_STOP_WAIT_S),
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            self._serving.result()
            raise Misconfigured("the HTTP server ended at once")

    async def stop(self) -> None:
        """Accept nothing new, finish what runs (at most HTTP_STOP_WAIT_S), then close."""
        if self._server and self._serving:
            self._server.should_exit = True
            await self._serving
        self._server = self._serving = None


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises PortInUse, or Misconfigured for an address that is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Misconfigured(f"cannot listen on {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            sentence = f"port {port} on {host} is taken; free it or set another `port`"
            raise PortInUse(sentence) from None
        raise Misconfigured(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def free_port(host: str) -> int:
    """A port that was free just now. Raises PortInUse, Misconfigured."""
    with bind(host, 0) as listener:
        return int(listener.getsockname()[1])
