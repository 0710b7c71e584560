"""What the sending and the receiving half of a device share."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from angarium.clock import Clock
from angarium.e2ee.engine import CryptoEngine
from angarium.ids import ConversationId, DeviceId, RandomBytes, UserId
from angarium.limits import STREAM_KEYS_MAX
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.effects import Effect
from angarium.sdk.journal import Journal
from angarium.sdk.keyring import Keyring
from angarium.sdk.records import TALK, Records
from angarium.sdk.talk import Talk
from angarium.storage.contract import Write


@dataclass(slots=True, eq=False)
class Desk:
    """`act` carries out effects of the machine; `spawn` starts a task that `close` awaits."""

    user: UserId
    device: DeviceId
    engine: CryptoEngine
    records: Records
    journal: Journal
    keyring: Keyring
    machine: ClientMachine
    clock: Clock
    random_bytes: RandomBytes
    act: Callable[[Sequence[Effect]], None]
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    talks: dict[ConversationId, Talk] = field(default_factory=dict)
    streams: dict[str, bytes] = field(default_factory=dict)

    def talk(self, conversation: str) -> Talk:
        known = ConversationId(conversation)
        if known not in self.talks:
            self.talks[known] = Talk.new(known, self.device, self.random_bytes)
        return self.talks[known]

    def save(self, talk: Talk | None = None) -> list[Write]:
        """The engine's changes and the conversation, in this order, as writes."""
        writes: list[Write] = self.records.changes(self.engine.take_changes())
        if talk is not None:
            writes.append(self.records.put(TALK + talk.id, talk.dump()))
        return writes

    def persist(self) -> "asyncio.Future[None]":
        """Make the engine's changes durable."""
        return self.journal.add((), self.save())

    def remember_stream(self, ref: str, stream: bytes) -> None:
        if stream:
            self.streams[ref] = stream
            while len(self.streams) > STREAM_KEYS_MAX:
                del self.streams[next(iter(self.streams))]

    def now_s(self) -> float:
        return self.clock.monotonic_s()
