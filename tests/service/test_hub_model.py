"""Row 15. Stateful: send, retry, acknowledge, drop, resume and purge equal a list.

Two nodes serve one store, each through caches of its own; a device resumes at either.
What a device has acknowledged it keeps; what came and was not acknowledged is lost with its
connection and must come again.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.service.messaging.relay import (
    ANN,
    ANN1,
    BOB,
    BOB1,
    BOB2,
    TALK,
    Relay,
    ScriptedDevice,
    key_of,
    settle,
)

from angarium.clock import ManualClock
from angarium.ids import DeviceId, UserId
from angarium.messaging.engine import MemoryEngine
from angarium.protocol.frames import Ack, Msg, Ok, Sealed, Send
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.simulation.loop import VirtualLoop

T = TypeVar("T")
OWNERS: dict[DeviceId, UserId] = {ANN1: ANN, BOB1: BOB, BOB2: BOB}
device = st.sampled_from(sorted(OWNERS))
node = st.sampled_from(range(2))


@dataclass
class Sent:
    device: DeviceId
    send: Send
    purged: bool = False


@dataclass
class Client:
    """A device's own memory: `kept` outlives its connection, `link` does not."""

    kept: list[Msg] = field(default_factory=list)
    link: ScriptedDevice | None = None

    @property
    def cursor(self) -> int:
        return self.kept[-1].s if self.kept else 0


class RelayEqualsModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.model: list[Sent] = []
        self.clients = {name: Client() for name in OWNERS}
        self.requests = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def open(self) -> None:
        async def work() -> Relay:
            store = await open_sqlite(None, ManualClock(), inline=True)
            relay = Relay(self.loop, store)
            await relay.enrol(ANN, ANN1)
            await relay.enrol(BOB, BOB1, BOB2)
            await relay.converse()
            await relay.node()
            self.second, other = await store.second(), MemoryEngine()
            there = self.second.store
            await relay.node(
                engine=other,
                log=there.log,
                conversations=there.conversations,
                receipts=there.receipts,
                directory=there.directory,
            )
            self.engines = [relay.engine, other]
            return relay

        self.relay = self.do(work())

    def teardown(self) -> None:
        async def work() -> None:
            for node in self.relay.nodes:
                await node.stop()
            await self.second.close()
            await self.relay.sqlite.close()

        if hasattr(self, "relay"):
            self.do(work())
        assert self.loop.unhandled == []
        asyncio.set_event_loop(None)
        self.loop.close()

    def answer(self, link: ScriptedDevice, send: Send) -> Ok:
        self.requests += 1
        send.id = self.requests
        self.do(link.say(send))
        (ok,) = [frame for frame in link.of(Ok) if frame.id == send.id]
        return ok

    @rule(who=device, at=node)
    def connect(self, who: DeviceId, at: int) -> None:
        client = self.clients[who]
        if client.link is None:
            cursors = {TALK: (client.kept[-1].e, client.cursor)} if client.kept else {}
            self.relay.engine = self.engines[at]
            client.link = self.do(self.relay.connect(OWNERS[who], who, cursors=cursors))

    @rule(who=device)
    def drop(self, who: DeviceId) -> None:
        client = self.clients[who]
        if client.link is not None:
            self.do(cut(client.link))
            client.link = None

    @rule(who=device, text=st.binary(min_size=1, max_size=8))
    def send(self, who: DeviceId, text: bytes) -> None:
        link = self.clients[who].link
        if link is None:
            return
        count = sum(sent.device == who for sent in self.model) + 1
        to = [Sealed(other, text + other.encode()) for other in OWNERS if other != who]
        send = Send(0, TALK, key_of(1000 + len(self.model)), count, to)

        ok = self.answer(link, send)

        self.model.append(Sent(who, send))
        assert (ok.s, ok.dup) == (len(self.model), False)

    @rule(pick=st.integers(0, 1000))
    def send_again(self, pick: int) -> None:
        if not self.model:
            return
        sequence = pick % len(self.model) + 1
        sent = self.model[sequence - 1]
        link = self.clients[sent.device].link
        if link is None:
            return

        ok = self.answer(link, sent.send)

        assert (ok.s, ok.dup) == (sequence, True)

    @rule(who=device)
    def acknowledge(self, who: DeviceId) -> None:
        client = self.clients[who]
        if client.link is None:
            return
        client.kept += [msg for msg in client.link.of(Msg) if msg.s > client.cursor]
        if client.kept:
            self.do(client.link.say(Ack([(TALK, client.cursor)])))

    @rule(share=st.integers(0, 60))
    def purge(self, share: int) -> None:
        up_to = len(self.model) * share // 100
        self.do(self.relay.store.log.purge(TALK, up_to))
        for sent in self.model[:up_to]:
            sent.purged = True

    @invariant()
    def each_device_saw_the_log_once_and_in_order(self) -> None:
        for who, client in self.clients.items():
            fresh = client.link.of(Msg) if client.link else []
            seen = [*client.kept, *(msg for msg in fresh if msg.s > client.cursor)]
            sequences = [msg.s for msg in seen]
            assert sequences == sorted(set(sequences))
            if client.link is not None:
                seen_to = sequences[-1] if sequences else 0
                assert all(sent.purged for sent in self.model[seen_to:]), "the last is missing"
            if sequences:
                missing = set(range(1, sequences[-1])) - set(sequences)
                assert all(self.model[s - 1].purged for s in missing)
            for msg in seen:
                self.check(who, msg)

    def check(self, who: DeviceId, msg: Msg) -> None:
        sent = self.model[msg.s - 1]
        assert (msg.key, msg.dev, msg.sender) == (
            sent.send.key,
            sent.device,
            OWNERS[sent.device],
        )
        wanted = {sealed.dev: sealed.ct for sealed in sent.send.to}.get(who, b"")
        assert msg.ct == wanted or (msg.k == "void" and sent.purged)


async def cut(link: ScriptedDevice) -> None:
    link.link.close()
    await settle()


RelayEqualsModel.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRelayEqualsModel = RelayEqualsModel.TestCase
