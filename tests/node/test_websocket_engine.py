"""The messaging service over real sockets: handshake, coalescing, sizes, closes."""

import asyncio
import base64
import os
import struct
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

import picows
import pytest
import uvloop

from angarium.bus.local import LocalBus
from angarium.clock import SystemClock
from angarium.errors import PortInUse
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.limits import ARRIVED_BYTES_MAX, RECEIVE_BUFFER_BYTES
from angarium.messaging.connection import Authenticated
from angarium.messaging.service import Messaging
from angarium.model.conversation import Participant
from angarium.model.device import Device
from angarium.protocol.codec import MsgpackCodec, codec_for
from angarium.protocol.frames import (
    SUBPROTOCOL_JSON,
    SUBPROTOCOL_MSGPACK,
    AnyFrame,
    Bye,
    Err,
    Hello,
    Msg,
    Ok,
    Ping,
    Sealed,
    Send,
    SyncEnd,
)
from angarium.server.websocket import WebSocketServer, choose_subprotocol, header
from angarium.storage.sqlite.store import open_sqlite

ANN, BOB = UserId("@ann:test"), UserId("@bob:test")
TALK = ConversationId("0192f000-0000-7000-8000-000000000001")
WAIT_S = 5.0


class Client(picows.WSListener):
    """Says and hears frames over a real socket."""

    def __init__(self, subprotocol: str) -> None:
        self.codec = codec_for(subprotocol)
        self.frames: list[Any] = []
        self.messages = 0
        self.news = asyncio.Event()
        self.close_code = 0
        self.transport: Any = None

    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type is picows.WSMsgType.CLOSE:
            self.close_code = int(frame.get_close_code())
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            self.messages += 1
            self.frames += self.codec.decode_server(frame.get_payload_as_bytes())
        self.news.set()

    def on_ws_disconnected(self, transport: Any) -> None:
        self.news.set()

    def say(self, *frames: AnyFrame) -> None:
        kind = picows.WSMsgType.BINARY if self.codec.binary else picows.WSMsgType.TEXT
        self.transport.send(kind, self.codec.encode(frames))

    async def until(self, fulfilled: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not fulfilled():
                self.news.clear()
                await self.news.wait()

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


class Node:
    def __init__(self, server: WebSocketServer, messaging: Messaging) -> None:
        self.server, self.messaging = server, messaging

    async def client(
        self, user: UserId = ANN, device: str = "ANNONE", subprotocol: str = SUBPROTOCOL_MSGPACK
    ) -> Client:
        client = await self.socket(subprotocol)
        client.say(Hello(1, device, user))
        await client.until(lambda: bool(client.of(SyncEnd)))
        return client

    async def socket(self, subprotocol: str = SUBPROTOCOL_MSGPACK) -> Client:
        _, client = await picows.ws_connect(
            lambda: Client(subprotocol),
            f"ws://127.0.0.1:{self.server.port}/ws",
            extra_headers={"Sec-WebSocket-Protocol": subprotocol},
        )
        assert isinstance(client, Client)
        return client


def on_node(folder: Path, scenario: Callable[[Node], Awaitable[None]], loop: str) -> None:
    async def work() -> None:
        clock, bus = SystemClock(), LocalBus()
        sqlite = await open_sqlite(folder, clock)
        store = sqlite.store
        for user, device in ((ANN, "ANNONE"), (BOB, "BOBONE")):
            await store.directory.put_device(Device(user, DeviceId(device), "sdk", {}, True, 0))
        await store.conversations.create(
            TALK, [Participant(user, "person") for user in (ANN, BOB)], 0
        )
        server = WebSocketServer(host="127.0.0.1", port=0)
        messaging = Messaging(
            engine=server,
            log=store.log,
            conversations=store.conversations,
            receipts=store.receipts,
            directory=store.directory,
            bus=bus,
            clock=clock,
            authenticate=lambda token, device: Authenticated(UserId(token)),
        )
        await messaging.start()
        await server.start()
        try:
            await scenario(Node(server, messaging))
        finally:
            await messaging.stop()
            await server.stop()
            await sqlite.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as on:
        on.run(work())


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def send(n: int, ct: bytes = b"sealed") -> Send:
    return Send(n, TALK, str(uuid.UUID(int=n)), n, [Sealed("BOBONE", ct)])


@pytest.mark.parametrize("subprotocol", [SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON])
def test_a_message_travels_over_real_sockets(
    tmp_path: Path, loop: str, subprotocol: str
) -> None:
    async def scenario(node: Node) -> None:
        ann = await node.client()
        bob = await node.client(BOB, "BOBONE", subprotocol)
        ann.say(send(1), send(2, b"x" * 60_000), send(3))
        await ann.until(lambda: len(ann.of(Ok)) == 3)
        await bob.until(lambda: len(bob.of(Msg)) == 3)

        assert [ok.s for ok in ann.of(Ok)] == [1, 2, 3]
        assert [len(m.ct) for m in bob.of(Msg)] == [6, 60_000, 6]

    on_node(tmp_path, scenario, loop)


def test_frames_of_one_turn_leave_as_one_message(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        ann, bob = await node.client(), await node.client(BOB, "BOBONE")
        before = bob.messages
        ann.say(*[send(n) for n in range(1, 9)])
        await bob.until(lambda: len(bob.of(Msg)) == 8)

        assert bob.messages == before + 1

    on_node(tmp_path, scenario, loop)


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"\xc1", 4400), (b"\x00" * (256 * 1024 + 1), 4413), (b"\x00" * (1024 * 1024 + 1), 1009)],
    ids=["garbage", "over the limit", "far over the limit"],
)
def test_bad_payloads_are_closed_with_their_code(
    tmp_path: Path, loop: str, payload: bytes, code: int
) -> None:
    async def scenario(node: Node) -> None:
        client = await node.client()
        client.transport.send(picows.WSMsgType.BINARY, payload)
        await client.until(lambda: client.close_code != 0)

        assert client.close_code == code

    on_node(tmp_path, scenario, loop)


def test_a_message_in_fragments_is_put_together(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        ann = await node.client()
        payload = ann.codec.encode([send(1)])
        ann.transport.send(picows.WSMsgType.BINARY, payload[:10], fin=False)
        ann.transport.send(picows.WSMsgType.CONTINUATION, payload[10:20], fin=False)
        ann.transport.send(picows.WSMsgType.CONTINUATION, payload[20:])
        await ann.until(lambda: len(ann.of(Ok)) == 1)

    on_node(tmp_path, scenario, loop)


def test_fragments_without_end_and_out_of_place_are_refused(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        endless, stray, broken = [await node.socket() for _ in range(3)]
        endless.transport.send(picows.WSMsgType.BINARY, b"x" * 200_000, fin=False)
        endless.transport.send(picows.WSMsgType.CONTINUATION, b"x" * 200_000, fin=False)
        stray.transport.send(picows.WSMsgType.CONTINUATION, b"x")
        broken.transport.send(picows.WSMsgType.BINARY, b"x", fin=False)
        broken.transport.send(picows.WSMsgType.BINARY, b"x")
        for client, code in ((endless, 4413), (stray, 4400), (broken, 4400)):
            await client.until(lambda client=client: client.close_code != 0)  # type: ignore[misc]
            assert client.close_code == code

    on_node(tmp_path, scenario, loop)


def test_what_was_sent_before_a_cut_is_stored(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        ann, bob = await node.client(), await node.client(BOB, "BOBONE")
        ann.say(send(1))
        ann.transport.disconnect()
        await bob.until(lambda: len(bob.of(Msg)) == 1)

        assert node.messaging.figures.accepted == 1

    on_node(tmp_path, scenario, loop)


def test_what_arrives_in_one_turn_of_the_loop_is_looked_at_before_it_is_too_much(
    tmp_path: Path, loop: str
) -> None:
    async def scenario(node: Node) -> None:
        await node.client()
        (socket,) = node.server._sockets.values()
        frame = MsgpackCodec().encode([Ping(1)]).ljust(1024 * 1024, b" ")
        for _ in range(ARRIVED_BYTES_MAX // len(frame)):
            node.server.arrived(socket, frame)
        assert node.messaging.connections == 1
        assert node.server._arrived_bytes == ARRIVED_BYTES_MAX
        node.server.arrived(socket, frame)
        assert node.server._arrived_bytes == 0

    on_node(tmp_path, scenario, loop)


def test_the_kernel_holds_little_of_what_a_client_sends(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        await node.client()
        (socket,) = node.server._sockets.values()
        raw = socket.transport.underlying_transport.get_extra_info("socket")
        # Linux tells twice what was asked for.
        assert raw.getsockopt(SOL_SOCKET, SO_RCVBUF) <= 2 * RECEIVE_BUFFER_BYTES

    on_node(tmp_path, scenario, loop)


def test_bye_is_closed_normally_and_forgotten(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        ann = await node.client()
        ann.say(Bye())
        await ann.until(lambda: ann.transport.is_disconnected)

        assert ann.close_code == 1000
        again = await node.client()  # Its welcome comes after the old one's end was seen.
        assert node.messaging.connections == 1
        assert again.close_code == 0

    on_node(tmp_path, scenario, loop)


def test_a_wrong_token_is_told_and_closed(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        client = await node.socket()
        client.say(Hello(1, "BOBONE", ANN))
        await client.until(lambda: client.close_code != 0)

        assert client.close_code == 4403
        assert [err.code for err in client.of(Err)] == ["forbidden"]

    on_node(tmp_path, scenario, loop)


def test_an_unknown_subprotocol_is_refused_in_the_handshake(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.server.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: angarium.9.xml\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), WAIT_S)
        writer.close()

        assert answer.startswith(b"HTTP/1.1 400")

    on_node(tmp_path, scenario, loop)


def test_a_node_that_goes_away_turns_newcomers_away_and_keeps_its_connections(
    tmp_path: Path, loop: str
) -> None:
    async def scenario(node: Node) -> None:
        ann = await node.client()
        node.server.turn_away()
        with pytest.raises(picows.WSInvalidStatusError) as refused:
            await node.socket()
        ann.say(send(1))
        await ann.until(lambda: bool(ann.of(Ok)))

        assert refused.value.response.status == 503

    on_node(tmp_path, scenario, loop)


def test_a_taken_port_is_named(tmp_path: Path, loop: str) -> None:
    async def scenario(node: Node) -> None:
        other = WebSocketServer(host="127.0.0.1", port=node.server.port)
        with pytest.raises(PortInUse, match="websocket_port"):
            await other.start()

    on_node(tmp_path, scenario, loop)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
def test_headers_are_as_the_standard_wants_them(size: int) -> None:
    found = header(b"\x82", size)
    length = found[1]
    if length == 126:
        (length,) = struct.unpack(">H", found[2:])
        assert length >= 126
    elif length == 127:
        (length,) = struct.unpack(">Q", found[2:])
        assert length > 65_535

    assert (found[0], length) == (0x82, size)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, ""),
        (SUBPROTOCOL_JSON, SUBPROTOCOL_JSON),
        (f"x, {SUBPROTOCOL_MSGPACK}, {SUBPROTOCOL_JSON}", SUBPROTOCOL_MSGPACK),
        ("x", None),
        ("", None),
    ],
)
def test_the_first_known_subprotocol_is_chosen(offered: str | None, chosen: str | None) -> None:
    assert choose_subprotocol(offered) == chosen
