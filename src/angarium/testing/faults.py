"""A TCP proxy on loopback whose network can be made bad: slow, cut, silent, forgetful.

It stands in front of one upstream (a node, Redis, MongoDB) and holds little: 64 KiB a direction
and small socket buffers, so that a slow side is felt by the other one.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from angarium.errors import Unavailable
from angarium.testing.redis_server import quiet_port

CHUNK_BYTES = 16 * 1024
SOCKET_BYTES = 64 * 1024  # Of each socket's kernel buffers.
CHUNKS_WAITING_MAX = 64  # Of a direction, while they are delayed. At it nothing more is read.
CONNECT_WAIT_S = 5.0
SLICE_S = 0.05  # A throttled direction sends about this often, one byte at least.
_HOST = "127.0.0.1"

Mode = Literal["pass", "reset", "black hole", "stalled", "lose responses"]


class FaultProxy:
    """Listens on `port`; forwards to `host`:`port` until told otherwise.

    One fault of Mode holds at a time, for connections that are there and new ones alike; delay
    and throttle go with any. `heal` ends all of them.
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self.upstream = (host, port)
        self.port = listen_port or quiet_port()
        self.accepted = 0
        self.responses_lost = 0
        self.mode: Mode = "pass"
        self.delays_s = {"request": 0.0, "response": 0.0}
        self.rates: dict[str, float | None] = {"request": None, "response": None}
        self.marker = b""
        self.losses_left: int | None = None
        self.swap: tuple[bytes, bytes, float] | None = None
        self.swapped = 0
        self._changed = asyncio.Event()
        self._pairs: dict[_Pair, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    # --- life -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises Unavailable when the port is taken."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _make_small(listener)  # Accepted sockets inherit it.
        try:
            listener.bind((_HOST, self.port))
        except OSError as error:
            listener.close()
            raise Unavailable(f"port {self.port}: {error.strerror}") from None
        self._server = await asyncio.start_server(
            self._accept, sock=listener, limit=CHUNK_BYTES, backlog=4096
        )

    async def close(self) -> None:
        self._stop_listening()
        tasks = list(self._pairs.values())
        # Not cancelled: a stream's callback task that is cancelled is reported as a failure.
        self.reset(also_new=True)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> "FaultProxy":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def live(self) -> int:
        """Connections through it now."""
        return len(self._pairs)

    def before(self, url: str) -> str:
        """`url` of the upstream, leading through this proxy instead.

        A MongoDB driver is told not to look for the server's own address.
        """
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        query = parts.query
        if parts.scheme.startswith("mongodb"):
            query = f"{query}&directConnection=true" if query else "directConnection=true"
        place = f"{login}{at}{_HOST}:{self.port}"
        return urlunsplit((parts.scheme, place, parts.path or "/", query, parts.fragment))

    # --- faults ---------------------------------------------------------------------------

    def delay(self, request_ms: float = 0.0, response_ms: float = 0.0) -> None:
        """Every byte arrives so much later."""
        self.delays_s = {"request": request_ms / 1000, "response": response_ms / 1000}

    def throttle(
        self,
        request_bytes_per_s: float | None = None,
        response_bytes_per_s: float | None = None,
    ) -> None:
        """No more than so many bytes a second, on each connection by itself."""
        self.rates = {"request": request_bytes_per_s, "response": response_bytes_per_s}
        self._set(self.mode)

    def reset(self, *, also_new: bool = False) -> None:
        """RST to both ends of every connection; new ones too, with `also_new`, until healed."""
        for pair in list(self._pairs):
            pair.reset()
        if also_new:
            self._set("reset")

    def black_hole(self) -> None:
        """Bytes and ends of connections are swallowed; new connections are taken and told
        nothing. What lost bytes cannot go on and is reset when healed."""
        self._set("black hole")

    def stall(self) -> None:
        """Nothing is read, nothing lost: connections go silent, and on when healed."""
        self._set("stalled")

    async def refuse(self) -> None:
        """Do not listen: new connections are refused. Those that stand stay."""
        self._stop_listening()

    def lose_responses(self, marker: bytes = b"", times: int | None = None) -> None:
        """Requests arrive; then the answer is swallowed and the connection reset.

        `marker`: only of requests that hold these bytes. `times`: only so often.
        """
        self.marker, self.losses_left = marker, times
        self._set("lose responses")

    def falsify(self, marker: bytes, instead: bytes, share: float = 1.0) -> None:
        """In requests `marker` becomes `instead`, of the same length, as often as `share`.

        So a PUBLISH goes to a topic that nobody hears. A request never ends inside `marker`.
        """
        if len(marker) != len(instead):
            raise ValueError("what is put in place is as long as what is taken away")
        self.swap = (marker, instead, share)

    async def heal(self) -> None:
        """As if nothing had been. Raises Unavailable when the port is taken."""
        self.swap = None
        self.delay()
        self.rates = {"request": None, "response": None}
        for pair in list(self._pairs):
            if pair.holed:
                pair.reset()
        self._set("pass")
        if self._server is None:
            await self.start()

    def _set(self, mode: Mode) -> None:
        self.mode = mode
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def place(self) -> tuple[str, int]:
        """Where the next connection goes."""
        return self.upstream

    async def changed(self, within_s: float | None = None) -> None:
        """Wait until a fault begins or ends, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), within_s)

    async def unstalled(self) -> None:
        """Wait while nothing is to be read."""
        while self.mode == "stalled":
            await self.changed()

    def take_loss(self) -> bool:
        """Whether one more response is to be lost; counts it."""
        if self.losses_left == 0:
            return False
        if self.losses_left is not None:
            self.losses_left -= 1
        self.responses_lost += 1
        return True

    # --- connections ----------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        pair = _Pair(self, reader, writer)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream's callback is a task.
        self._pairs[pair] = task
        try:
            await pair.run()
        finally:
            del self._pairs[pair]


class _Pair:
    """One client's connection and the one to the upstream."""

    def __init__(
        self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy, self._near = proxy, (reader, writer)
        self._far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.holed = False  # Bytes of it were swallowed.
        self._marked = False  # A request whose answer is to be lost went through.

    def reset(self) -> None:
        """RST both ways; the tasks of the pair end by it."""
        for end in (self._near, self._far):
            if end is not None:
                _reset(end[1])

    async def run(self) -> None:
        try:
            if not await self._connect() or self._far is None:
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward("request", self._near[0], self._far[1]))
                group.create_task(self._forward("response", self._far[0], self._near[1]))
        except* (OSError, EOFError):
            self.reset()  # One end is gone: so is the other.
        finally:
            for end in (self._near, self._far):
                if end is not None:
                    end[1].transport.abort()

    async def _connect(self) -> bool:
        """Reach the upstream, unless the fault of the moment has other plans."""
        proxy = self._proxy
        while proxy.mode in ("black hole", "stalled"):
            self.holed = self.holed or proxy.mode == "black hole"
            await proxy.changed()
        if proxy.mode == "reset" or self.holed:
            self.reset()
            return False
        raw = socket.socket()
        raw.setblocking(False)
        _make_small(raw)
        try:
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(raw, proxy.place()), CONNECT_WAIT_S)
        except (OSError, TimeoutError):
            raw.close()
            self.reset()
            return False
        self._far = await asyncio.open_connection(sock=raw, limit=CHUNK_BYTES)
        for _, writer in (self._near, self._far):
            writer.transport.set_write_buffer_limits(high=CHUNK_BYTES)
        return True

    async def _forward(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read and send, as two tasks, so that a delay is no lower rate."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_WAITING_MAX)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(way, waiting, writer))
            async for chunk in self._read(way, reader):
                due_s = asyncio.get_running_loop().time() + self._proxy.delays_s[way]
                await waiting.put((due_s, chunk))
            await waiting.put((0.0, b""))

    async def _read(self, way: str, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What is to be passed on."""
        proxy = self._proxy
        while True:
            await proxy.unstalled()
            chunk = await self._chunk(reader)
            await proxy.unstalled()
            if proxy.mode == "black hole":
                self.holed = True
                if not chunk:
                    await proxy.changed()
                continue
            if not chunk:
                return
            if proxy.mode == "lose responses" and self._is_lost(way, chunk):
                self.reset()
                return
            if way == "request" and proxy.swap is not None:
                chunk = await self._falsified(reader, chunk, *proxy.swap)
            yield chunk

    async def _falsified(
        self,
        reader: asyncio.StreamReader,
        chunk: bytes,
        marker: bytes,
        instead: bytes,
        share: float,
    ) -> bytes:
        while ends_inside(chunk, marker):
            more = await reader.read(CHUNK_BYTES)
            if not more:
                break
            chunk += more
        first, *rest = chunk.split(marker)
        parts = [first]
        for part in rest:
            is_swapped = random.random() < share  # noqa: S311 - no secret
            self._proxy.swapped += is_swapped
            parts += [instead if is_swapped else marker, part]
        return b"".join(parts)

    async def _chunk(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes; none at the end. Raises OSError, which a black hole swallows."""
        try:
            return await reader.read(CHUNK_BYTES)
        except OSError:
            if self._proxy.mode != "black hole":
                raise
            return b""

    def _is_lost(self, way: str, chunk: bytes) -> bool:
        if way == "request":
            self._marked = self._marked or self._proxy.marker in chunk
            return False
        return self._marked and self._proxy.take_loss()

    async def _send(
        self,
        way: str,
        waiting: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, chunk = await waiting.get()
            if due_s > loop.time():
                await asyncio.sleep(due_s - loop.time())
            if not chunk:
                if not writer.is_closing() and writer.can_write_eof():
                    writer.write_eof()
                return
            while chunk:
                chunk = await self._send_some(way, chunk, writer)

    async def _send_some(self, way: str, chunk: bytes, writer: asyncio.StreamWriter) -> bytes:
        """Send what the rate allows now; returns the rest."""
        rate = self._proxy.rates[way]
        some = len(chunk) if rate is None else max(1, int(rate * SLICE_S))
        writer.write(chunk[:some])
        await writer.drain()
        if rate is not None:
            await self._proxy.changed(within_s=min(some, len(chunk)) / rate)
        return chunk[some:]


def ends_inside(chunk: bytes, marker: bytes) -> bool:
    """Whether `marker` may have begun at the end of `chunk`."""
    return any(chunk.endswith(marker[:length]) for length in range(1, len(marker)))


def _make_small(end: socket.socket) -> None:
    """The kernel's buffers; before the connection stands, or they keep their size."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
