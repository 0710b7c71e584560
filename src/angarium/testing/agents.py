"""Try agents without a network: the real gateway on a real store in memory.

async with AgentWorld([my_agent]) as world:
    assert await world.say("hello") == ["Hello!"]
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from angarium.adapters.store import OpenedStore
from angarium.agents.attempt import Patience
from angarium.agents.contract import AgentKind
from angarium.agents.declared import Declared, Routing
from angarium.agents.gateway import Gateway
from angarium.agents.guard import Admit, admit_everybody
from angarium.agents.handoff import HumanHours, Tell, tell_nobody
from angarium.agents.media import NO_FILES, Files
from angarium.agents.recall import Embedder
from angarium.agents.registry import Registry
from angarium.agents.replies import ON_CHANNELS, Disclosure
from angarium.agents.routing.router import Router
from angarium.agents.spend import Caps
from angarium.agents.ward import Ward
from angarium.agents.warmer import Warmer
from angarium.clock import ManualClock
from angarium.e2ee.body import Body
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId, uuid7
from angarium.limits import LEASE_TTL_S
from angarium.sdk.contract import Received, Sink
from angarium.storage.contract import Fence, Store, Turn, Turns, Vault
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.fakes import FixedKeySealer, MemoryEndpoint, MemoryRelay, Sent, heard

GATEWAY_USER = UserId("@gateway:test")
GATEWAY_DEVICE = DeviceId("GATEWAY1")
PERSON = UserId("@ada:test")
DEFAULT_ROUTING = Routing()
CONVERSATION = ConversationId("01999999-0000-7000-8000-000000000001")


@dataclass(frozen=True, slots=True)
class Reach:
    """The store's contracts as the gateway gets them; tests put failing ones here."""

    vault: Vault
    turns: Turns


OpenStore = Callable[[ManualClock], Awaitable[OpenedStore]]


async def in_memory(clock: ManualClock) -> OpenedStore:
    return await open_sqlite(None, clock, inline=True)


def as_they_are(store: Store) -> Reach:
    return Reach(store.vault, store.turns)


class AgentWorld:
    """One gateway with agents, a person, and a relay between them.

    `router` is set before it is opened where agents are found by examples; without, the rules
    that need none decide. `restart` throws the gateway away as a crash would and starts another
    over the same store: one in memory, or what `open_store` opens.
    """

    def __init__(
        self,
        agents: Sequence[AgentKind],
        *,
        default: str = "",
        routing: Routing = DEFAULT_ROUTING,
        patience: Patience | None = None,
        admit: Admit = admit_everybody,
        reach: Callable[[Store], Reach] = as_they_are,
        ward: Ward | None = None,
        embedder: Embedder | None = None,
        caps: Caps | None = None,
        disclosure: Disclosure = ON_CHANNELS,
        hours: HumanHours | None = None,
        tell: Tell = tell_nobody,
        files: Files = NO_FILES,
        journal: bool = True,
        turns_at_once: int = 8,
        turns_held_max: int = 1000,
        open_store: OpenStore = in_memory,
    ) -> None:
        self.registry = Registry(Declared(tuple(agents), routing), default)
        self.clock = ManualClock()
        self.relay = MemoryRelay()
        self._patience, self._admit, self._reach = patience, admit, reach
        self._journal, self._ward, self._embedder = journal, ward, embedder
        self._turns_at_once, self._turns_held_max = turns_at_once, turns_held_max
        self._disclosure = disclosure
        self._caps, self._hours, self._tell = caps, hours, tell
        self._files = files
        self._sealer = FixedKeySealer()
        self._open_store = open_store
        self._opened: OpenedStore | None = None
        self._incarnation = 0
        self._said = 0
        self.router: Router | None = None
        self.gateway: Gateway
        self.warmer: Warmer
        self.endpoint: MemoryEndpoint

    async def __aenter__(self) -> "AgentWorld":
        self._opened = await self._open_store(self.clock)
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.gateway.close()
        await self.warmer.close()
        await self.store_opened.close()

    @property
    def store_opened(self) -> OpenedStore:
        if self._opened is None:
            raise RuntimeError("use `async with AgentWorld(...)`")
        return self._opened

    @property
    def store(self) -> Store:
        return self.store_opened.store

    def make_gateway(self, ward: Ward | None = None) -> Gateway:
        """Another gateway for the same device, as another process would have it."""
        self._incarnation += 1
        reach = self._reach(self.store)

        async def make_endpoint(sink: Sink, fence: Fence) -> MemoryEndpoint:
            self.endpoint = MemoryEndpoint(
                user=GATEWAY_USER,
                device=GATEWAY_DEVICE,
                vault=reach.vault,
                relay=self.relay,
                sink=sink,
                fence=fence,
            )
            return self.endpoint

        return Gateway(
            make_endpoint=make_endpoint,
            device=GATEWAY_DEVICE,
            owner=f"process {self._incarnation}",
            vault=reach.vault,
            turns=reach.turns,
            leases=self.store.leases,
            sealer=self._sealer,
            registry=self.registry,
            router=self.router,
            clock=self.clock,
            admit=self._admit,
            ward=ward or self._ward,
            embedder=lambda: self._embedder,
            caps=self._caps,
            disclosure=self._disclosure,
            hours=self._hours,
            tell=self._tell,
            patience=self._patience,
            files=self._files,
            journal=self._journal,
            turns_at_once=self._turns_at_once,
            turns_held_max=self._turns_held_max,
        )

    async def start(self) -> None:
        """Open the agents, then the gateway."""
        ward = self._ward or Ward(self.clock)
        self.warmer = Warmer(self.registry, ward)
        await self.warmer.start()
        self.gateway = self.make_gateway(ward)
        await self.gateway.open()

    async def restart(self) -> None:
        """Kill the gateway where it is, then start another over the same store."""
        await self.kill()
        await self.start()

    async def kill(self) -> None:
        """End every task but the caller's, and let the dead gateway's lease run out."""
        tasks = {task for task in asyncio.all_tasks() if not _is_drivers(task)}
        tasks -= {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.warmer.close()
        self.clock.advance(LEASE_TTL_S + 1)

    def write_message(
        self,
        text: str,
        *,
        conversation: ConversationId = CONVERSATION,
        via: str = "",
        sender: UserId = PERSON,
        agent: str = "",
    ) -> Received:
        """A message in the relay's log that the gateway has not received yet."""
        self._said += 1
        count = self._said
        key = MessageKey(uuid7(count, lambda size: count.to_bytes(size, "big")))
        received = Received(
            conversation=conversation,
            sequence=0,
            key=key,
            sender=sender,
            device=DeviceId("PERSON01"),
            accepted_ms=self.clock.now_ms(),
            body=Body(text=text, via=via, agent=agent),
            stream=bytes([count % 256]) * 32,
        )
        return heard(self.relay, received)

    async def say(
        self, text: str, *, conversation: ConversationId = CONVERSATION, via: str = ""
    ) -> list[str]:
        """Write to the agents and return what they answered."""
        before = len(self.answers(conversation))
        received = self.write_message(text, conversation=conversation, via=via)
        await self.endpoint.receive(received)
        await self.gateway.idle()
        return [sent.body.text for sent in self.answers(conversation)[before:]]

    def answers(self, conversation: ConversationId = CONVERSATION) -> list[Sent]:
        """All that agents and gateway have said in the conversation."""
        log = self.relay.log.get(conversation, [])
        return [sent for sent in log if sent.body.ref]

    async def turn(self, sequence: int, conversation: ConversationId = CONVERSATION) -> Turn:
        """The record of a turn. Raises LookupError."""
        found = await self.store.turns.find(conversation, sequence)
        if found is None:
            raise LookupError(f"no turn for message {sequence}")
        return found


def _is_drivers(task: "asyncio.Task[object]") -> bool:
    """Of MongoDB's driver, which watches the server for all who live in this process."""
    return task.get_name().startswith("pymongo_")
