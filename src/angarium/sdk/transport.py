"""How bytes reach a relay: a small contract, and its WebSocket form on picows.

Tests and the simulation plug an in-memory link in; nothing above this file notices.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from angarium.errors import Unavailable
from angarium.limits import FRAME_BYTES_MAX
from angarium.protocol.codec import Codec, MsgpackCodec

OnMessage = Callable[[bytes], None]
OnClose = Callable[[int, str], None]

ABNORMAL = 1006  # The code of a connection that ended without a close frame.


class Connection(Protocol):
    """An open link. Neither call waits or raises."""

    def send(self, payload: bytes) -> None:
        """Queue one WebSocket message; dropped when the link has ended."""
        ...

    def close(self, code: int = 1000) -> None: ...


class Connector(Protocol):
    """Opens links to one relay, all in one codec."""

    codec: Codec

    async def open(self, on_message: OnMessage, on_close: OnClose) -> Connection:
        """A new link. `on_close(code, reason)` comes at most once, from the loop, never from
        inside `open`. Raises Unavailable."""
        ...


class PicowsConnector:
    """WebSocket links to `url`, e.g. `ws://127.0.0.1:8460/v1/socket`."""

    def __init__(self, url: str, codec: Codec | None = None, open_wait_s: float = 5.0) -> None:
        self._url = url
        self.codec = codec or MsgpackCodec()
        self._open_wait_s = open_wait_s

    async def open(self, on_message: OnMessage, on_close: OnClose) -> Connection:
        import picows

        try:
            _, listener = await picows.ws_connect(
                lambda: _listener(self.codec.binary, on_message, on_close),
                self._url,
                websocket_handshake_timeout=self._open_wait_s,
                max_frame_size=FRAME_BYTES_MAX * 3,
                extra_headers={"Sec-WebSocket-Protocol": self.codec.subprotocol},
            )
        except (TimeoutError, OSError, picows.WSError) as error:
            raise Unavailable(f"the relay does not answer: {type(error).__name__}") from None
        opened: Any = listener
        return opened  # type: ignore[no-any-return]


def _listener(binary: bool, on_message: OnMessage, on_close: OnClose) -> Any:
    """A picows listener; its class is made here because picows is imported only when used."""
    import picows

    kind = picows.WSMsgType.BINARY if binary else picows.WSMsgType.TEXT

    class Listener(picows.WSListener):
        def __init__(self) -> None:
            super().__init__()
            self._transport: Any = None
            self._closed = (ABNORMAL, "")
            self._silent = False

        def on_ws_connected(self, transport: Any) -> None:
            self._transport = transport

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.CLOSE:
                self._closed = (int(frame.get_close_code() or ABNORMAL), _reason(frame))
                transport.send_close(frame.get_close_code() or 1000)
                transport.disconnect()
            elif frame.msg_type in (picows.WSMsgType.BINARY, picows.WSMsgType.TEXT):
                on_message(frame.get_payload_as_bytes())

        def on_ws_disconnected(self, transport: Any) -> None:
            if not self._silent:
                asyncio.get_running_loop().call_soon(on_close, *self._closed)

        def send(self, payload: bytes) -> None:
            if self._transport is not None and not self._transport.is_disconnected:
                self._transport.send(kind, payload)

        def close(self, code: int = 1000) -> None:
            self._silent = True
            if self._transport is not None and not self._transport.is_disconnected:
                self._transport.send_close(code)
                self._transport.disconnect()

    return Listener()


def _reason(frame: Any) -> str:
    return str(frame.get_close_reason() or "")
