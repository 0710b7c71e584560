"""A whole relay in memory: the real messaging service, keys service and store; no sockets."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from angarium.bus.local import LocalBus
from angarium.clock import SystemClock
from angarium.e2ee.olm import OlmEngine
from angarium.errors import NotFound, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId, new_device_id, uuid7
from angarium.keys.directory import Keys
from angarium.kms.sealer import DataKeySealer
from angarium.messaging.connection import Authenticated
from angarium.messaging.engine import MemoryEngine, MemoryLink
from angarium.messaging.service import Messaging
from angarium.model.conversation import Participant
from angarium.protocol.codec import MsgpackCodec
from angarium.sdk.contract import Happened, Received
from angarium.sdk.endpoint import DeviceEndpoint
from angarium.sdk.records import Records
from angarium.sdk.transport import OnClose, OnMessage
from angarium.storage.contract import Store, Write
from angarium.storage.sqlite.store import open_sqlite

CLOCK = SystemClock()


class Line:
    """An endpoint's connection over a memory link."""

    def __init__(self, link: MemoryLink) -> None:
        self.link = link

    def send(self, payload: bytes) -> None:
        self.link.send(payload)

    def close(self, code: int = 1000) -> None:
        self.link.on_close = lambda code, reason: None
        self.link.close()


class MemoryConnector:
    """Opens memory links; `cut` breaks those that are open."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.codec = MsgpackCodec()
        self._engine = engine
        self.lines: list[Line] = []
        self.down = False

    async def open(self, on_message: OnMessage, on_close: OnClose) -> Line:
        if self.down:
            raise Unavailable("cut")
        link = self._engine.connect(self.codec.subprotocol)
        link.on_message, link.on_close = on_message, on_close
        self.lines.append(Line(link))
        return self.lines[-1]

    def cut(self) -> None:
        for line in self.lines:
            on_close = line.link.on_close
            line.link.on_close = lambda code, reason: None
            line.link.close()
            on_close(1006, "")
        self.lines.clear()


class DirectApi:
    """The API of one user, calling the services behind the real one."""

    def __init__(self, user: UserId, keys: Keys, store: Store) -> None:
        self._user, self._keys, self._store = user, keys, store

    async def close(self) -> None:
        pass

    async def upload_keys(self, upload: Mapping[str, Any]) -> dict[str, Any]:
        done = await self._keys.upload(self._user, **upload)
        return {"signed": done.signed}

    async def upload_identity(self, identity: Mapping[str, Any]) -> None:
        master, signing = identity["master_key"], identity["self_signing_key"]
        await self._keys.upload_identity(self._user, master, signing)

    async def upload_signatures(self, signed: Mapping[str, Any]) -> None:
        await self._keys.upload_signatures(self._user, signed)

    async def query_keys(self, users: Sequence[UserId]) -> dict[str, Any]:
        return await self._keys.query(self._user, users)

    async def claim_keys(self, wanted: Mapping[UserId, Sequence[DeviceId]]) -> dict[str, Any]:
        named = {u: dict.fromkeys(ds, "signed_curve25519") for u, ds in wanted.items()}
        return await self._keys.claim(self._user, named)

    async def count_keys(self, device: DeviceId) -> int:
        return await self._keys.count(self._user, device)

    async def create_conversation(
        self, users: Sequence[UserId], conversation: ConversationId | None, key: str
    ) -> dict[str, Any]:
        found = await self._store.conversations.find_between(users)
        if found is None:
            made = conversation or ConversationId(uuid7(CLOCK.now_ms()))
            people = [Participant(user, "person") for user in users]
            found = await self._store.conversations.create(made, people, CLOCK.now_ms())
        return await self.conversation(found.id)

    async def conversation(self, conversation: ConversationId) -> dict[str, Any]:
        found = await self._store.conversations.find(conversation)
        if found is None:
            raise NotFound("no such conversation")
        people = [{"user": p.user, "role": p.role} for p in found.participants]
        return {"id": found.id, "epoch": found.epoch, "participants": people}


class Notebook:
    """A program that writes nothing itself and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[Received] = []
        self.events: list[Happened] = []
        self.changed = asyncio.Condition()
        self.moved = asyncio.Event()

    def plan(self, received: Received) -> Sequence[Write]:
        return ()

    def committed(self, received: Received) -> None:
        self.shown.append(received)
        self.moved.set()

    def happened(self, event: Happened) -> None:
        self.events.append(event)
        self.moved.set()

    async def texts(self, count: int) -> list[str]:
        """The first `count` texts, once they are there."""
        async with asyncio.timeout(5):
            while len(self.shown) < count:
                self.moved.clear()
                await self.moved.wait()
        return [shown.body.text for shown in self.shown[:count]]

    async def event(self, kind: str) -> Happened:
        async with asyncio.timeout(5):
            while not any(event.kind == kind for event in self.events):
                self.moved.clear()
                await self.moved.wait()
        return next(event for event in self.events if event.kind == kind)


class World:
    """One relay and the devices of some people."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bus = LocalBus()
        self.engine = MemoryEngine()
        self.keys = Keys(directory=store.directory, bus=self.bus, clock=CLOCK)
        self.messaging = Messaging(
            engine=self.engine,
            log=store.log,
            conversations=store.conversations,
            receipts=store.receipts,
            directory=store.directory,
            bus=self.bus,
            clock=CLOCK,
            authenticate=lambda token, device: Authenticated(UserId(token)),
        )
        self.sealer = DataKeySealer(bytes(32))
        self.connectors: dict[DeviceId, MemoryConnector] = {}
        self.open: list[DeviceEndpoint] = []

    async def device(
        self,
        name: str,
        sink: Notebook,
        device: DeviceId | None = None,
        identity_of: OlmEngine | None = None,
    ) -> DeviceEndpoint:
        """Open a device: a new one, or the stored one of that id."""
        user = UserId(f"@{name}:test")
        chosen = device or new_device_id()
        records = Records(self.store.vault, self.sealer, f"device/{chosen}")
        saved = await records.engine_records()
        if saved:
            engine = OlmEngine.load(user, chosen, saved, clock=CLOCK)
        elif identity_of is not None:
            identity = identity_of.export_identity()
            engine = OlmEngine.create_device(
                user, chosen, kind="sdk", identity=identity, clock=CLOCK
            )
        else:
            engine = OlmEngine.create(user, chosen, kind="sdk", clock=CLOCK)

        async def token(fresh: bool) -> str:
            return user

        self.connectors[chosen] = MemoryConnector(self.engine)
        endpoint = DeviceEndpoint(
            user=user,
            device=chosen,
            engine=engine,
            vault=self.store.vault,
            sealer=self.sealer,
            api=DirectApi(user, self.keys, self.store),  # type: ignore[arg-type]
            connector=self.connectors[chosen],
            token=token,
            clock=CLOCK,
            sink=sink,
            kind="sdk",
            random=lambda: 0.0,
        )
        self.open.append(endpoint)
        await endpoint.open()
        async with asyncio.timeout(5):
            await endpoint.caught_up()
        return endpoint


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    sqlite = await open_sqlite(None, CLOCK, inline=True)
    made = World(sqlite.store)
    await made.messaging.start()
    try:
        yield made
    finally:
        for endpoint in made.open:
            await endpoint.close()
        await made.messaging.stop()
        await sqlite.close()
