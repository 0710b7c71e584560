"""A client without encryption state: frames in, frames out. For load and for bad input.

It sends what it is told, acknowledges what it receives, and keeps no history. What it seals are
random bytes, so that a measurement shows the relay and not the ratchet.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import picows

from angarium.clock import SystemClock
from angarium.e2ee.olm import OlmEngine
from angarium.errors import Unavailable
from angarium.ids import ConversationId, DeviceId, UserId, new_device_id
from angarium.protocol.codec import MsgpackCodec, UnknownFrame
from angarium.protocol.frames import (
    SUBPROTOCOL_MSGPACK,
    Ack,
    AnyFrame,
    Hello,
    Msg,
    Ping,
    Pong,
    Range,
    Resume,
    ServerFrame,
    SyncEnd,
)
from angarium.sdk.api import HttpApi
from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode

READY_WAIT_S = 15.0


class RawClient(picows.WSListener):
    """One connection. `on_frames` is called with each decoded array."""

    def __init__(self) -> None:
        self.on_frames: Callable[[list[Any]], None] | None = None
        self.close_code, self.close_reason = 0, ""
        self.closed = asyncio.Event()
        self.live = asyncio.Event()
        self.automatic_acks = True
        self._codec = MsgpackCodec()
        self._transport: Any = None

    @classmethod
    async def connect(
        cls,
        url: str,
        device: str,
        token: str,
        *,
        cursors: dict[str, tuple[int, int]] | None = None,
        wait_live: bool = True,
    ) -> "RawClient":
        """Connect, say hello and, unless told not to, wait for the end of the backlog.

        Raises Unavailable when the node does not get that far.
        """
        client = await cls.open(url)
        client.send([Hello(1, device, token, "raw", [], Resume(cursors or {}))])
        if wait_live:
            await client.wait(client.live)
        return client

    @classmethod
    async def open(cls, url: str, subprotocol: str = SUBPROTOCOL_MSGPACK) -> "RawClient":
        """Connect and say nothing yet. Raises picows.WSHandshakeError when turned away."""
        client = cls()
        await picows.ws_connect(
            lambda: client,
            url,
            extra_headers={"Sec-WebSocket-Protocol": subprotocol},
            logger_name=logging.LoggerAdapter(logging.getLogger("angarium.rawclient"), {}),
        )
        return client

    async def wait(self, event: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(event.wait(), READY_WAIT_S)
        except TimeoutError:
            raise Unavailable(f"nothing came in time (close code {self.close_code})") from None

    def send(self, frames: Sequence[AnyFrame]) -> None:
        for start in range(0, len(frames), 64):
            self.send_bytes(self._codec.encode(frames[start : start + 64]))

    def send_bytes(self, payload: bytes) -> None:
        self._transport.send(picows.WSMsgType.BINARY, payload)

    async def close(self) -> None:
        self._transport.disconnect()
        await self.closed.wait()

    # --- called by picows ---

    def on_ws_connected(self, transport: Any) -> None:
        self._transport = transport

    def on_ws_disconnected(self, transport: Any) -> None:
        self.closed.set()
        self.live.set()

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            self.close_code = int.from_bytes(payload[:2], "big")
            self.close_reason = payload[2:].decode()
            transport.disconnect()
            return
        if frame.msg_type in (picows.WSMsgType.BINARY, picows.WSMsgType.TEXT):
            self._receive(self._codec.decode_server(frame.get_payload_as_bytes()))

    def _receive(self, frames: list[ServerFrame | UnknownFrame]) -> None:
        marks: dict[str, int] = {}
        for frame in frames:
            if isinstance(frame, Msg):
                marks[frame.c] = frame.s
            elif isinstance(frame, Range) and frame.msgs:
                marks[frame.c] = frame.msgs[-1].s
            elif isinstance(frame, Ping):
                self.send([Pong(frame.n)])
            elif isinstance(frame, SyncEnd):
                self.live.set()
        if marks and self.automatic_acks:
            self.send([Ack(list(marks.items()))])
        if self.on_frames is not None:
            self.on_frames(frames)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A device whose keys stand in the directory."""

    user: UserId
    device: DeviceId
    token: str
    http_url: str

    async def converse(self, other: str) -> ConversationId:
        """The conversation with `other`, made if there is none."""
        api = HttpApi(self.http_url, constant(self.token))
        try:
            made = await api.create_conversation([UserId(other)], None, str(uuid.uuid4()))
        finally:
            await api.close()
        return ConversationId(made["id"])


def constant(token: str) -> Callable[[bool], Awaitable[str]]:
    """A token source that always gives the same one."""

    async def give(fresh: bool) -> str:
        return token

    return give


async def enrol(node: ServedNode, user: str) -> Enrolled:
    """Make a device with real keys for `user` and publish them."""
    owner, device = UserId(user), new_device_id()
    engine = OlmEngine.create(owner, device, kind="sdk", clock=SystemClock())
    token = mint_token(node.folder, owner)
    api = HttpApi(node.http_url, constant(token))
    try:
        await api.upload_identity(engine.identity_keys() or {})
        prekeys = engine.make_prekeys(1, fallback=True)
        await api.upload_keys({"device_keys": engine.device_keys(), "kind": "sdk", **prekeys})
    finally:
        await api.close()
    return Enrolled(owner, device, token, node.http_url)
