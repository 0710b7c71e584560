"""What carries WebSocket messages: a small batched contract, and one engine in memory."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from angarium.protocol.frames import SUBPROTOCOL_MSGPACK


class EngineListener(Protocol):
    """Told by the engine, on the loop. None of these may raise."""

    def opened(self, connection: int, subprotocol: str) -> None:
        """A client connected and chose its sub-protocol."""
        ...

    def ready(self) -> None:
        """Something can be polled: at most one call for each turn of the loop."""
        ...

    def refused(self, connection: int, oversized: bool) -> None:
        """A message broke the WebSocket protocol, or is over the size limit; nothing more of
        this connection is polled. It stays open until `close`."""
        ...

    def closed(self, connection: int) -> None:
        """The connection ended, whoever ended it. What had arrived was polled before."""
        ...


class Engine(Protocol):
    """Connections by number. A number is never used twice in a process.

    Payloads of one connection are polled in the order they arrived. What is sent leaves at the
    next `flush`, in order. A number that is not open is ignored everywhere.
    """

    def attach(self, listener: EngineListener) -> None:
        """Before the first connection."""
        ...

    def poll(self) -> list[tuple[int, bytes]]:
        """Everything that arrived since the last call."""
        ...

    def send(self, connection: int, payload: bytes) -> None:
        """Queue one WebSocket message."""
        ...

    def flush(self) -> None:
        """Write out what is queued: one write for each connection."""
        ...

    def close(self, connection: int, code: int, reason: str) -> None:
        """Flush, then close. `closed` follows."""
        ...

    def unsent_bytes(self, connection: int) -> int:
        """Bytes that the peer has not taken yet."""
        ...


class MemoryLink:
    """The client's end of a connection in memory.

    `on_message` and `on_close` may be set; without them `received` and `closed` keep it.
    """

    def __init__(self, engine: "MemoryEngine", number: int) -> None:
        self._engine = engine
        self.number = number
        self.received: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.reading = True
        self.on_message: Callable[[bytes], None] = self.received.append
        self.on_close: Callable[[int, str], None] = lambda code, reason: None

    def send(self, payload: bytes) -> None:
        """One WebSocket message to the node."""
        self._engine.arrived(self, payload)

    def close(self) -> None:
        """Break the connection from the client's side."""
        self._engine.broken(self)

    def stop_reading(self) -> None:
        """From here on the node's bytes pile up, as with a peer that hangs."""
        self.reading = False


class MemoryEngine:
    """The engine contract without sockets: for tests and simulations, on any loop."""

    def __init__(self) -> None:
        self._listener: EngineListener | None = None
        self._links: dict[int, MemoryLink] = {}
        self._arrived: list[tuple[int, bytes]] = []
        self._queued: dict[int, list[bytes]] = {}
        self._unread: dict[int, int] = {}
        self._numbers = 0
        self.flushes = 0

    def attach(self, listener: EngineListener) -> None:
        self._listener = listener

    def connect(self, subprotocol: str = SUBPROTOCOL_MSGPACK) -> MemoryLink:
        """A new connection. Both sides' messages travel on the loop's next turn."""
        self._numbers += 1
        link = MemoryLink(self, self._numbers)
        self._links[link.number] = link
        if self._listener is not None:
            self._listener.opened(link.number, subprotocol)
        return link

    def arrived(self, link: MemoryLink, payload: bytes) -> None:
        if link.number not in self._links:
            return
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._ready)
        self._arrived.append((link.number, payload))

    def broken(self, link: MemoryLink) -> None:
        asyncio.get_running_loop().call_soon(self._end, link.number, None)

    def poll(self) -> list[tuple[int, bytes]]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def send(self, connection: int, payload: bytes) -> None:
        if connection in self._links:
            self._queued.setdefault(connection, []).append(payload)

    def flush(self) -> None:
        self.flushes += 1
        queued, self._queued = self._queued, {}
        for number, payloads in queued.items():
            link = self._links.get(number)
            if link is None:
                continue
            if link.reading:
                asyncio.get_running_loop().call_soon(self._deliver, link, payloads)
            else:
                size = sum(map(len, payloads))
                self._unread[number] = self._unread.get(number, 0) + size

    def close(self, connection: int, code: int, reason: str) -> None:
        self.flush()
        asyncio.get_running_loop().call_soon(self._end, connection, (code, reason))

    def unsent_bytes(self, connection: int) -> int:
        return self._unread.get(connection, 0)

    def _ready(self) -> None:
        if self._listener is not None and self._arrived:
            self._listener.ready()

    def _deliver(self, link: MemoryLink, payloads: list[bytes]) -> None:
        for payload in payloads:
            link.on_message(payload)

    def _end(self, number: int, closing: tuple[int, str] | None) -> None:
        self._ready()
        link = self._links.pop(number, None)
        if link is None:
            return
        self._unread.pop(number, None)
        self._queued.pop(number, None)
        if closing is not None:
            link.closed = closing
            link.on_close(*closing)
        if self._listener is not None:
            self._listener.closed(number)
