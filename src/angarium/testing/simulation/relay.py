"""Simulated nodes: the messaging service over a faulty store, a lossy bus and faulty links."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from angarium.bus.contract import Bus
from angarium.errors import Unavailable
from angarium.ids import DeviceId, UserId
from angarium.keys.directory import Keys
from angarium.messaging.connection import Authenticated
from angarium.messaging.engine import MemoryEngine
from angarium.messaging.service import Messaging
from angarium.protocol.codec import Codec, MsgpackCodec
from angarium.sdk.transport import OnClose, OnMessage
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import SqliteStore
from angarium.testing.simulation.air import Air
from angarium.testing.simulation.door import Counter
from angarium.testing.simulation.loop import LoopClock, Process, VirtualLoop
from angarium.testing.simulation.network import End, Link, Network
from angarium.testing.simulation.store import Illness, StoreFigures, faulty


@dataclass(slots=True, eq=False)
class Life:
    """One life of a node, from start to crash."""

    process: Process
    engine: MemoryEngine
    messaging: Messaging
    counter: Counter
    stores: SqliteStore


class SimulatedNode:
    """A node that can be killed and started again; only the store survives."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        stores: SqliteStore,
        air: Air,
        illness: Illness,
        figures: StoreFigures,
        chance: random.Random,
        skew_ms: int,
        head_check: bool,
    ) -> None:
        self.name = name
        self._loop, self._stores, self._air = loop, stores, air
        self._illness, self._figures, self._chance = illness, figures, chance
        self._clock = LoopClock(loop, skew_ms)
        self._head_check = head_check
        self.life: Life | None = None

    async def start(self) -> None:
        """Begin a life. A node that lives goes on as it is."""
        if self.life is not None:
            return
        process = Process(self.name)
        stores = await self._stores.second()
        store = faulty(
            stores.store, process, self._loop, self._illness, self._chance, self._figures
        )
        port = self._air.port(process)
        engine = MemoryEngine()
        made: list[Messaging] = []
        self._loop.enter(process, lambda: made.append(self._make(engine, store, port)))
        keys = Keys(directory=store.directory, bus=port, clock=self._clock)
        self.life = Life(process, engine, made[0], Counter(process, store, keys), stores)
        await self._loop.start(process, made[0].start())

    def _make(self, engine: MemoryEngine, store: Store, bus: Bus) -> Messaging:
        return Messaging(
            engine=engine,
            log=store.log,
            conversations=store.conversations,
            receipts=store.receipts,
            directory=store.directory,
            bus=bus,
            clock=self._clock,
            authenticate=authenticate,
            node_id=self.name,
            head_check=self._head_check,
        )

    async def crash(self) -> None:
        life, self.life = self.life, None
        if life is not None:
            self._loop.kill(life.process)
            await life.stores.close()


def token_of(user: UserId) -> str:
    return f"token of {user}"


def authenticate(token: str, device: DeviceId) -> Authenticated:
    """Tokens are not what is tested here."""
    return Authenticated(UserId(token.removeprefix("token of ")))


class SimulatedConnector:
    """Implements the client's `Connector`: to a random living node, over a faulty link."""

    def __init__(
        self,
        process: Process,
        network: Network,
        nodes: Callable[[], list[SimulatedNode]],
        chance: random.Random,
        seen: Callable[[End, bytes], None],
    ) -> None:
        self.codec: Codec = MsgpackCodec()
        self._process, self._network, self._nodes = process, network, nodes
        self._chance, self._seen = chance, seen

    async def open(self, on_message: OnMessage, on_close: OnClose) -> "Ending":
        nodes = [node for node in self._nodes() if node.life is not None]
        life = self._chance.choice(nodes).life if nodes else None
        if life is None:
            raise Unavailable("no node answers")
        try:
            link = await self._network.connect(
                self._process, life.process, lambda link: self._accept(life, link)
            )
        except ConnectionRefusedError:
            raise Unavailable("the relay does not answer") from None
        link.client.on_message = lambda payload: self._shown(link.client, payload, on_message)
        link.client.on_close = on_close
        return Ending(link.client, self._seen)

    def _shown(self, end: End, payload: bytes, on_message: OnMessage) -> None:
        self._seen(end, payload)
        on_message(payload)

    def _accept(self, life: Life, link: Link) -> None:
        inner = life.engine.connect(self.codec.subprotocol)
        link.server.on_message = inner.send
        link.server.on_close = lambda code, reason: inner.close()
        inner.on_message = link.server.send
        inner.on_close = link.server.close


class Ending:
    """The client's end, in the shape of its `Connection`; what passes is witnessed."""

    def __init__(self, end: End, seen: Callable[[End, bytes], None]) -> None:
        self._end, self._seen = end, seen

    def send(self, payload: bytes) -> None:
        if not self._end.closed and self._end.process.alive:
            self._seen(self._end, payload)
        self._end.send(payload)

    def close(self, code: int = 1000) -> None:
        self._end.close(code)
