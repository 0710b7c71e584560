"""A simulated person's device: says its lines, crashes, and goes on from its storage."""

import asyncio
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from angarium.clock import Clock
from angarium.e2ee.body import Body
from angarium.e2ee.engine import CryptoEngine
from angarium.e2ee.identity import Identity
from angarium.e2ee.olm import OlmEngine
from angarium.errors import AngariumError
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.kms.sealer import DataKeySealer
from angarium.model.device import DeviceKind
from angarium.sdk.api import Api
from angarium.sdk.contract import Sink
from angarium.sdk.endpoint import DeviceEndpoint
from angarium.sdk.records import Records
from angarium.sdk.transport import Connector
from angarium.storage.contract import Fence, Vault
from angarium.testing.fakes_crypto import FastEngine
from angarium.testing.simulation.invariants import History, Said
from angarium.testing.simulation.loop import Process, VirtualLoop
from angarium.testing.simulation.plan import GATEWAY, DevicePlan, Utterance
from angarium.testing.simulation.recorder import Recorder, digest_of
from angarium.testing.simulation.relay import token_of
from angarium.testing.simulation.store import FaultyPart, Illness, StoreFigures
from angarium.testing.simulation.vault import MemoryVault

SPEAK_AGAIN_S = 1.0


@dataclass(slots=True)
class Kit:
    """What a device needs of the world, made anew for each life. `real` chooses the ratchet."""

    loop: VirtualLoop
    clock: Clock
    real: bool
    chance: random.Random
    api: Callable[[UserId], Api]
    connector: Callable[[Process], Connector]
    sealer: DataKeySealer

    async def engine(
        self,
        vault: Vault,
        user: UserId,
        device: DeviceId,
        kind: DeviceKind,
        identity: Identity,
    ) -> CryptoEngine:
        """The device's engine from its records, or its first one."""
        records = await Records(vault, self.sealer, f"device/{device}").engine_records()
        made = OlmEngine if self.real else FastEngine
        random_bytes = self.chance.randbytes
        if "account" in records:
            return made.load(user, device, records, clock=self.clock, random=random_bytes)
        return made.create_device(
            user, device, kind=kind, identity=identity, clock=self.clock, random=random_bytes
        )

    def endpoint(
        self,
        process: Process,
        engine: CryptoEngine,
        vault: Vault,
        sink: Sink,
        kind: DeviceKind,
        fence: Fence | None = None,
    ) -> DeviceEndpoint:
        """An endpoint over the simulated network."""

        async def token(fresh: bool) -> str:
            return token_of(engine.user)

        return DeviceEndpoint(
            user=engine.user,
            device=engine.device,
            engine=engine,
            vault=vault,
            sealer=self.sealer,
            api=self.api(engine.user),
            connector=self.connector(process),
            token=token,
            clock=self.clock,
            sink=sink,
            kind=kind,
            fence=fence,
            random=self.chance.random,
            random_bytes=self.chance.randbytes,
        )


@dataclass(slots=True, eq=False)
class SimulatedPerson:
    """One device. `lines` are said in order, each until the device has taken it for good."""

    plan: DevicePlan
    kit: Kit
    identity: Identity
    lines: Sequence[Utterance]
    conversations: Sequence[tuple[ConversationId, Sequence[UserId]]]
    history: History
    illness: Illness = field(default_factory=lambda: Illness(slow=0.2, slow_s=0.3))
    storage: MemoryVault = field(default_factory=MemoryVault)
    process: Process | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    taken: int = 0

    @property
    def done(self) -> bool:
        """Everything was said, and everything said is acknowledged."""
        return self.taken == len(self.lines) and not self._open_keys()

    def start(self) -> None:
        """Begin a life, unless one is under way."""
        if self.process is not None:
            return
        self.process = process = Process(self.plan.device)
        self.kit.loop.start(process, self._live(process))

    def crash(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            self.kit.loop.kill(process)

    async def _live(self, process: Process) -> None:
        kit, plan = self.kit, self.plan
        vault = FaultyPart(
            self.storage, process, kit.loop, self.illness, kit.chance, StoreFigures()
        )
        engine = await kit.engine(vault, plan.user, plan.device, "sdk", self.identity)
        recorder = Recorder(plan.device, self.history.told)
        endpoint = kit.endpoint(process, engine, vault, recorder, "sdk")
        while True:
            try:
                await endpoint.open()
                break
            except AngariumError:
                await asyncio.sleep(SPEAK_AGAIN_S)
        self.opened.set()
        async with asyncio.TaskGroup() as group:
            for key, conversation in self._open_keys().items():
                group.create_task(self._confirm(endpoint, key, conversation))
            await self._speak(endpoint, group)

    async def _speak(self, endpoint: DeviceEndpoint, group: asyncio.TaskGroup) -> None:
        loop = self.kit.loop
        while self.taken < len(self.lines):
            line = self.lines[self.taken]
            await asyncio.sleep(max(0.0, line.at_s - loop.time()))
            conversation, users = self.conversations[line.conversation]
            key = key_of(line)
            try:
                await endpoint.submit(conversation, Body(text=line.text), key)
            except AngariumError:
                # Not taken: the same line again, under the same key.
                await asyncio.sleep(SPEAK_AGAIN_S)
                continue
            self.taken += 1
            self.history.said.append(
                Said(conversation, key, digest_of(line.text), self.taken, GATEWAY in users)
            )
            group.create_task(self._confirm(endpoint, key, conversation))

    async def _confirm(
        self, endpoint: DeviceEndpoint, key: MessageKey, conversation: ConversationId
    ) -> None:
        delivered = await endpoint.sent(key)
        self.history.acked.append((conversation, key, delivered.sequence))

    def _open_keys(self) -> dict[MessageKey, ConversationId]:
        acked = {key for _, key, _ in self.history.acked}
        return {
            MessageKey(said.key): ConversationId(said.conversation)
            for said in self.history.said
            if said.key not in acked
        }


def key_of(line: Utterance) -> MessageKey:
    """The key of a line: the same in every life of its device."""
    return MessageKey(str(uuid.uuid5(uuid.NAMESPACE_OID, line.text)))
