"""The WebSocket engine: picows behind the batched contract of `messaging/engine.py`."""

import asyncio
import errno
import logging
import ssl
from socket import SO_RCVBUF, SOCK_STREAM, SOL_SOCKET
from socket import fromfd as socket_of
from typing import Any

import picows

from angarium.errors import Misconfigured, PortInUse, Unavailable
from angarium.limits import ARRIVED_BYTES_MAX, FRAME_BYTES_MAX, RECEIVE_BUFFER_BYTES
from angarium.messaging.engine import EngineListener
from angarium.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from angarium.protocol.server_side import CLOSE_GOAWAY

_READ_BUFFER_BYTES = 2048  # Grows with what arrives; most connections are idle.
_RECEIVED_BYTES_MAX = 4 * FRAME_BYTES_MAX  # Beyond it the library itself closes, with 1009.
_HANDSHAKE_WAIT_S = 5.0
_CLOSE_WAIT_S = 1.0  # The peer reads why before the socket goes.
_ABORT_WAIT_S = 5.0  # A peer that does not read is not waited for.
_ACCEPT_BACKLOG = 4096
_BINARY, _TEXT = b"\x82", b"\x81"


class Socket(picows.WSListener):
    """One WebSocket connection, as small as it can be: there may be a hundred thousand."""

    __slots__ = (
        "closing",
        "deaf",
        "engine",
        "number",
        "opcode",
        "partial",
        "subprotocol",
        "transport",
    )

    def __init__(self, engine: "WebSocketServer", subprotocol: str) -> None:
        self.engine, self.subprotocol = engine, subprotocol
        self.opcode = _TEXT if subprotocol == SUBPROTOCOL_JSON else _BINARY
        self.number = 0
        self.transport: Any = None
        self.partial: bytearray | None = None
        self.closing = self.deaf = False

    def on_ws_connected(self, transport: Any) -> None:
        # The headers of the handshake are not needed any more and weigh kilobytes.
        transport.request.headers = None
        self.transport = transport
        self.engine.opened(self)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        kind = frame.msg_type
        if kind is picows.WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif self.closing or self.deaf:
            pass
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.engine.refuse(self, oversized=False)
        elif kind is picows.WSMsgType.PONG:
            pass
        elif kind is picows.WSMsgType.CONTINUATION or not frame.fin:
            self._on_fragment(frame)
        elif self.partial is not None:
            self.engine.refuse(self, oversized=False)
        elif frame.payload_size > FRAME_BYTES_MAX:
            self.engine.refuse(self, oversized=True)
        else:
            self.engine.arrived(self, frame.get_payload_as_bytes())

    def _on_fragment(self, frame: Any) -> None:
        continues = frame.msg_type is picows.WSMsgType.CONTINUATION
        if continues != (self.partial is not None):
            self.engine.refuse(self, oversized=False)
            return
        if self.partial is None:
            self.partial = bytearray()
        if len(self.partial) + frame.payload_size > FRAME_BYTES_MAX:
            self.partial = None
            self.engine.refuse(self, oversized=True)
            return
        self.partial += frame.get_payload_as_memoryview()
        if frame.fin:
            whole, self.partial = bytes(self.partial), None
            self.engine.arrived(self, whole)

    def on_ws_disconnected(self, transport: Any) -> None:
        self.engine.ended(self)

    def pause_writing(self) -> None:
        """The hub looks at `unsent_bytes`; credit bounds what can pile up."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


class WebSocketServer:
    """Keeps the contract `messaging.engine.Engine`. One write per connection and flush.

    `start` raises PortInUse or Misconfigured. A message over FRAME_BYTES_MAX is answered with
    4413; one over four times that is not even received: 1009. TLS is usually ended in front of
    the node; with `tls` it is ended here.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        shared: bool = False,
    ) -> None:
        self._host, self._port, self._tls, self._shared = host, port, tls, shared
        self._listener: EngineListener | None = None
        self._sockets: dict[int, Socket] = {}
        self._arrived: list[tuple[int, bytes]] = []
        self._arrived_bytes = 0
        self._queued: dict[Socket, list[bytes]] = {}
        self._numbers = 0
        self._ready_planned = self._turns_away = False
        self._server: asyncio.Server | None = None
        logger = logging.getLogger("angarium.websocket")
        logger.setLevel(logging.WARNING)
        # An adapter, because picows makes one logger per connection out of a logger.
        self._logger = Faults(logger, {})

    # --- life -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen."""
        try:
            self._server = await picows.ws_create_server(
                self._greet,
                self._host,
                self._port,
                websocket_handshake_timeout=_HANDSHAKE_WAIT_S,
                logger_name=self._logger,
                enable_auto_ping=False,
                max_frame_size=_RECEIVED_BYTES_MAX,
                read_buffer_init_size=_READ_BUFFER_BYTES,
                use_aiofastnet=False,
                backlog=_ACCEPT_BACKLOG,
                ssl=self._tls,
                reuse_port=self._shared or None,
            )
            self._bound_receiving(self._server)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {self._port} on {self._host} is taken; "
                    "free it or set another `websocket_port`"
                ) from error
            raise Misconfigured(f"cannot listen on {self._host}:{self._port}") from error

    @staticmethod
    def _bound_receiving(server: asyncio.Server) -> None:
        """Accepted sockets inherit it. The library doubles a connection's buffer whenever a
        read fills it, so that what the kernel holds bounds what this process does."""
        for each in server.sockets:
            with socket_of(each.fileno(), each.family, SOCK_STREAM) as listener:
                listener.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    @property
    def port(self) -> int:
        """The port listened on; interesting when 0 was asked for."""
        sockets = self._server.sockets if self._server is not None else ()
        return int(sockets[0].getsockname()[1]) if sockets else 0

    async def check(self) -> None:
        """Raises Unavailable when it does not listen."""
        if self._server is None or not self._server.is_serving():
            raise Unavailable("the WebSocket endpoint does not listen")

    def turn_away(self) -> None:
        """Connections stay; a new one is answered with 503, so that a load balancer asks
        another node at once."""
        self._turns_away = True

    def stop_accepting(self) -> None:
        """Connections stay; no new one is taken."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """Stop listening, close what is open (4001), wait shortly, cut what is left."""
        self.stop_accepting()
        for number in list(self._sockets):
            self.close(number, CLOSE_GOAWAY, "goaway")
        deadline_s = asyncio.get_running_loop().time() + _CLOSE_WAIT_S
        for socket in list(self._sockets.values()):
            left_s = deadline_s - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await socket.transport.wait_disconnected()
            except TimeoutError:
                socket.transport.disconnect(False)

    # --- the contract ---------------------------------------------------------------------

    def attach(self, listener: EngineListener) -> None:
        self._listener = listener

    def poll(self) -> list[tuple[int, bytes]]:
        arrived, self._arrived, self._arrived_bytes = self._arrived, [], 0
        return arrived

    def send(self, connection: int, payload: bytes) -> None:
        socket = self._sockets.get(connection)
        if socket is None or socket.closing:
            return
        parts = self._queued.get(socket)
        if parts is None:
            parts = self._queued[socket] = []
        parts.append(header(socket.opcode, len(payload)))
        parts.append(payload)

    def flush(self) -> None:
        queued, self._queued = self._queued, {}
        for socket, parts in queued.items():
            transport = socket.transport
            if not transport.is_disconnected and not transport.is_close_frame_sent:
                transport.underlying_transport.write(b"".join(parts))

    def close(self, connection: int, code: int, reason: str) -> None:
        self.flush()
        socket = self._sockets.get(connection)
        if socket is None or socket.closing:
            return
        socket.closing = True
        transport = socket.transport
        transport.send_close(code, reason.encode())
        loop = asyncio.get_running_loop()
        loop.call_later(_CLOSE_WAIT_S, transport.disconnect)
        loop.call_later(_ABORT_WAIT_S, transport.disconnect, False)

    def unsent_bytes(self, connection: int) -> int:
        socket = self._sockets.get(connection)
        if socket is None:
            return 0
        return int(socket.transport.underlying_transport.get_write_buffer_size())

    # --- what sockets tell ----------------------------------------------------------------

    def opened(self, socket: Socket) -> None:
        self._numbers += 1
        socket.number = self._numbers
        self._sockets[socket.number] = socket
        if self._listener is not None:
            self._listener.opened(socket.number, socket.subprotocol)

    def arrived(self, socket: Socket, payload: bytes) -> None:
        self._arrived.append((socket.number, payload))
        self._arrived_bytes += len(payload)
        if self._arrived_bytes > ARRIVED_BYTES_MAX:
            self._ready()  # One turn of the loop may read much more from many connections.
        elif not self._ready_planned:
            self._ready_planned = True
            asyncio.get_running_loop().call_soon(self._ready)

    def refuse(self, socket: Socket, *, oversized: bool) -> None:
        if socket.deaf or self._listener is None:
            return
        self._ready()
        socket.deaf = True
        self._listener.refused(socket.number, oversized)

    def ended(self, socket: Socket) -> None:
        self._ready()
        self._queued.pop(socket, None)
        if self._sockets.pop(socket.number, None) is not None and self._listener is not None:
            self._listener.closed(socket.number)

    def _ready(self) -> None:
        self._ready_planned = False
        if self._arrived and self._listener is not None:
            self._listener.ready()

    def _greet(self, request: Any) -> Any:
        if self._turns_away:
            return _refusal(503, "this node goes away; another one answers")
        chosen = choose_subprotocol(request.headers.get("Sec-WebSocket-Protocol"))
        if chosen is None:
            return _refusal(400, f"speak {SUBPROTOCOL_MSGPACK} or {SUBPROTOCOL_JSON}")
        extra = {"Sec-WebSocket-Protocol": chosen} if chosen else None
        response = picows.WSUpgradeResponse.create_101_response(extra)
        return picows.WSUpgradeResponseWithListener(response, Socket(self, chosen))


class Faults(logging.LoggerAdapter[logging.Logger]):
    """Of the library's lines only those about exceptions count: what a peer sends, or how
    slowly it reads, is no fault of this node, and must not fill its log."""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        self.info(msg, *args, **kwargs)

    def warning(self, msg: object, *args: object, **kwargs: Any) -> None:
        self.info(msg, *args, **kwargs)


def _refusal(status: int, sentence: str) -> Any:
    response = picows.WSUpgradeResponse.create_error_response(status, sentence.encode())
    return picows.WSUpgradeResponseWithListener(response, None)


def choose_subprotocol(offered: str | None) -> str | None:
    """The first one offered that this node speaks; "" when none was named; None: refuse."""
    if offered is None:
        return ""
    known = (SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON)
    return next((name for each in offered.split(",") if (name := each.strip()) in known), None)


def header(opcode: bytes, payload_bytes: int) -> bytes:
    """The header of a whole, unmasked WebSocket message."""
    if payload_bytes < 126:
        return opcode + bytes((payload_bytes,))
    if payload_bytes < 1 << 16:
        return opcode + b"\x7e" + payload_bytes.to_bytes(2, "big")
    return opcode + b"\x7f" + payload_bytes.to_bytes(8, "big")
