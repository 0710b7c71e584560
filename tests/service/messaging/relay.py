"""A relay in memory on virtual time, and devices that say exactly what a test tells them."""

import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from angarium.bus.local import LocalBus
from angarium.clock import ManualClock
from angarium.errors import TokenExpired, Unauthenticated
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.messaging.connection import Authenticated
from angarium.messaging.engine import MemoryEngine
from angarium.messaging.service import Messaging
from angarium.model.conversation import Participant
from angarium.model.device import Device
from angarium.protocol.codec import Codec, codec_for
from angarium.protocol.frames import (
    SUBPROTOCOL_MSGPACK,
    AnyFrame,
    Hello,
    Msg,
    Resume,
    Sealed,
    Send,
)
from angarium.storage.sqlite.store import SqliteStore, open_sqlite
from angarium.testing.simulation.loop import LoopClock, VirtualLoop
from angarium.testing.simulation.loop import run as run_on

T = TypeVar("T")
ANN, BOB = UserId("@ann:test"), UserId("@bob:test")
ANN1, ANN2, BOB1, BOB2 = map(DeviceId, ("ANNONE", "ANNTWO", "BOBONE", "BOBTWO"))
TALK = ConversationId("0192f000-0000-7000-8000-000000000001")
OTHER = ConversationId("0192f000-0000-7000-8000-000000000002")


def authenticate(token: str, device: DeviceId) -> Authenticated:
    if token == "expired":
        raise TokenExpired("the token was valid once")
    if not token.startswith("@"):
        raise Unauthenticated("the token is wrong")
    return Authenticated(UserId(token))


def key_of(n: int) -> str:
    return str(uuid.UUID(int=n))


class ScriptedDevice:
    """A link and everything that came over it, decoded."""

    def __init__(self, relay: "Relay", device: DeviceId, subprotocol: str) -> None:
        self.device, self._loop = device, relay.loop
        self.codec: Codec = codec_for(subprotocol)
        self.link = relay.engine.connect(subprotocol)

    async def say(self, *frames: AnyFrame) -> None:
        self.link.send(self.codec.encode(frames))
        await settle()

    @property
    def frames(self) -> list[Any]:
        return [
            frame
            for payload in self.link.received
            for frame in self.codec.decode_server(payload)
        ]

    def of(self, kind: type[T]) -> list[T]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    def sequences(self, c: str = TALK) -> list[int]:
        return [frame.s for frame in self.of(Msg) if frame.c == c]

    @property
    def close_code(self) -> int | None:
        return self.link.closed[0] if self.link.closed else None


class Relay:
    """One or more nodes over one store. `messaging` is the first."""

    def __init__(self, loop: VirtualLoop, store: SqliteStore) -> None:
        self.loop, self.sqlite, self.store = loop, store, store.store
        self.clock = LoopClock(loop)
        self.bus = LocalBus()
        self.engine = MemoryEngine()
        self.nodes: list[Messaging] = []

    async def node(self, bus: Any = None, engine: Any = None, **named: Any) -> Messaging:
        parts: dict[str, Any] = {
            "engine": engine or self.engine,
            "log": self.store.log,
            "conversations": self.store.conversations,
            "receipts": self.store.receipts,
            "directory": self.store.directory,
            "bus": bus or self.bus,
            "clock": self.clock,
            "authenticate": authenticate,
        }
        messaging = Messaging(**(parts | named))
        await messaging.start()
        self.nodes.append(messaging)
        return messaging

    @property
    def messaging(self) -> Messaging:
        return self.nodes[0]

    async def enrol(self, user: UserId, *devices: DeviceId, signed: bool = True) -> None:
        for device in devices:
            await self.store.directory.put_device(Device(user, device, "sdk", {}, signed, 0))

    async def converse(self, c: ConversationId = TALK, *users: UserId) -> None:
        participants = [Participant(user, "person") for user in users or (ANN, BOB)]
        await self.store.conversations.create(c, participants, self.clock.now_ms())

    def link(self, device: DeviceId, subprotocol: str = SUBPROTOCOL_MSGPACK) -> ScriptedDevice:
        return ScriptedDevice(self, device, subprotocol)

    async def connect(
        self,
        user: UserId,
        device: DeviceId,
        *,
        cursors: dict[str, tuple[int, int]] | None = None,
        win: tuple[int, int] = (0, 0),
        feat: Sequence[str] = (),
        subprotocol: str = SUBPROTOCOL_MSGPACK,
    ) -> ScriptedDevice:
        scripted = self.link(device, subprotocol)
        resume = None if cursors is None else Resume(cursors)
        await scripted.say(Hello(1, device, user, "test", list(feat), resume, win))
        return scripted


async def settle(turns: int = 30) -> None:
    """Let everything run that is ready; no time passes."""
    import asyncio

    for _ in range(turns):
        await asyncio.sleep(0)


def send(n: int, *to: DeviceId, c: str = TALK, request: int = 0, ct: bytes = b"sealed") -> Send:
    """The `n`-th message of a device."""
    return Send(request or n, c, key_of(n), n, [Sealed(device, ct) for device in to])


def on_relay(
    scenario: Callable[[Relay], Coroutine[Any, Any, T]], *, enrolled: bool = True, **named: Any
) -> T:
    """Run a scenario: Ann has one device, Bob has one, they share `TALK`."""

    async def work(loop: VirtualLoop) -> T:
        store = await open_sqlite(None, ManualClock(), inline=True)
        relay = Relay(loop, store)
        if enrolled:
            await relay.enrol(ANN, ANN1)
            await relay.enrol(BOB, BOB1)
            await relay.converse()
        await relay.node(**named)
        try:
            result = await scenario(relay)
            assert loop.unhandled == []
            return result
        finally:
            for node in relay.nodes:
                await node.stop()
            await store.close()

    return run_on(None, work)
