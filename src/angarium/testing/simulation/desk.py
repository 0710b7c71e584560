"""The agents' device in a simulation: one or two gateway processes, of which one may work."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from angarium.agents.agent import Agent
from angarium.agents.contract import Turn
from angarium.agents.gateway import Gateway
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.e2ee.identity import Identity
from angarium.errors import AngariumError, OutcomeUnknown
from angarium.ids import DeviceId
from angarium.sdk.contract import Endpoint, Sink
from angarium.storage.contract import Fence, Store
from angarium.storage.sqlite.store import SqliteStore
from angarium.testing.simulation.invariants import History
from angarium.testing.simulation.loop import Process
from angarium.testing.simulation.person import Kit
from angarium.testing.simulation.plan import GATEWAY
from angarium.testing.simulation.recorder import Recorder
from angarium.testing.simulation.store import Illness, StoreFigures, faulty

DEVICE = DeviceId("GATEWAY0001")
OPEN_AGAIN_S = 1.0


@dataclass(slots=True, eq=False)
class SimulatedGateway:
    """One gateway process; several share the device, and the lease decides."""

    name: str
    kit: Kit
    identity: Identity
    stores: SqliteStore
    illness: Illness
    figures: StoreFigures
    history: History
    effects: list[tuple[str, int]]
    journal: bool
    process: Process | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    lives: int = 0

    def start(self) -> None:
        """Begin a life, unless one is under way."""
        if self.process is not None:
            return
        self.lives += 1
        self.process = process = Process(self.name)
        self.kit.loop.start(process, self._live(process, f"{self.name}.{self.lives}"))

    def crash(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            self.kit.loop.kill(process)

    async def _live(self, process: Process, owner: str) -> None:
        stores = await self.stores.second()
        loop, chance = self.kit.loop, self.kit.chance
        store = faulty(stores.store, process, loop, self.illness, chance, self.figures)
        gateway = self._make(process, owner, store)
        while True:
            try:
                await gateway.open()
            except AngariumError:
                await asyncio.sleep(OPEN_AGAIN_S)
                continue
            self.opened.set()
            await gateway.wait_lost()
            await gateway.close()

    def _make(self, process: Process, owner: str, store: Store) -> Gateway:
        kit = self.kit

        async def make_endpoint(sink: Sink, fence: Fence) -> Endpoint:
            vault = store.vault
            engine = await kit.engine(vault, GATEWAY, DEVICE, "gateway", self.identity)
            recorder = Recorder(DEVICE, self.history.told, sink)
            return kit.endpoint(process, engine, vault, recorder, "gateway", fence)

        return Gateway(
            make_endpoint=make_endpoint,
            device=DEVICE,
            owner=owner,
            vault=store.vault,
            turns=store.turns,
            leases=store.leases,
            sealer=kit.sealer,
            registry=Registry([make_echo(self.effects)]),
            clock=kit.clock,
            ward=Ward(kit.clock, jitter=lambda: 0.5),  # Chance of its own would not replay.
            journal=self.journal,
        )


def make_echo(effects: list[tuple[str, int]]) -> Agent:
    """An agent that says again what it heard; every second time it also does something once.

    `effects` gets (conversation, sequence) whenever that really happens.
    """
    echo = Agent("echo", "Says again what it heard")

    @echo.on_turn
    async def answer(turn: Turn) -> AsyncIterator[str]:
        async def book(key: str) -> str:
            effects.append((turn.conversation, turn.sequence))
            await asyncio.sleep(0.2)
            return key

        yield "You said: "
        await asyncio.sleep(0.3)
        if turn.sequence % 2:
            try:
                await turn.tools.call("book", "once", book, turn.sequence)
            except OutcomeUnknown:
                yield "(perhaps booked) "
        yield turn.text

    return echo
