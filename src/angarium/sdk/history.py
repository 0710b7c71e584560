"""What a person's device keeps of its conversations, sealed, and what waits to be looked at."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from angarium.e2ee.body import Body
from angarium.errors import Gone, Replayed, SealBroken
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.kms.contract import Sealer
from angarium.sdk.contract import Happened, Received
from angarium.storage.contract import PutRecord, Vault, Write

PENDING_MESSAGES_MAX = 4096  # Unread by one iterator; the oldest is dropped (it is in history).
_SHOWN_BEFORE = (Replayed.code, Gone.code)


class HistoryRecord(msgspec.Struct, array_like=True):
    c: str
    sequence: int
    key: str
    sender: str
    device: str
    accepted_ms: int
    body: Body
    own: bool = False
    problem: str = ""
    gap: int = 0


@dataclass(eq=False)
class Feed:
    """One iterator's queue: messages and events of one conversation, or of all."""

    conversation: ConversationId | None
    waiting: deque[Received | Happened] = field(
        default_factory=lambda: deque(maxlen=PENDING_MESSAGES_MAX)
    )
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def put(self, item: Received | Happened) -> None:
        if self.conversation in (None, item.conversation):
            self.waiting.append(item)
            self.wake.set()

    async def items(self) -> AsyncIterator[Received | Happened]:
        """In order, until the feed ends."""
        while True:
            while self.waiting:
                yield self.waiting.popleft()
            if self.ended:
                return
            self.wake.clear()
            await self.wake.wait()


class History:
    """Implements `Sink`: each message is kept in the write that moves the cursor."""

    def __init__(self, vault: Vault, sealer: Sealer, device: DeviceId) -> None:
        self._vault, self._sealer = vault, sealer
        self._scope = f"history/{device}"
        self._feeds: list[Feed] = []

    def plan(self, received: Received) -> Sequence[Write]:
        if received.problem in _SHOWN_BEFORE or (received.own and received.problem):
            return []  # What was kept when it came first is not overwritten.
        key = f"{received.conversation}/{received.sequence:012d}"
        record = HistoryRecord(
            received.conversation,
            received.sequence,
            received.key,
            received.sender,
            received.device,
            received.accepted_ms,
            received.body,
            received.own,
            received.problem,
            received.gap,
        )
        blob = self._sealer.seal(msgspec.msgpack.encode(record), f"{self._scope}/{key}")
        return [PutRecord(self._scope, key, blob)]

    def committed(self, received: Received) -> None:
        for feed in self._feeds:
            feed.put(received)

    def happened(self, event: Happened) -> None:
        for feed in self._feeds:
            feed.put(event)

    def subscribe(self, conversation: ConversationId | None = None) -> Feed:
        feed = Feed(conversation)
        self._feeds.append(feed)
        return feed

    def unsubscribe(self, feed: Feed) -> None:
        if feed in self._feeds:
            self._feeds.remove(feed)

    def end(self) -> None:
        """Every iterator comes to its end."""
        for feed in self._feeds:
            feed.ended = True
            feed.wake.set()

    async def read(self, conversation: ConversationId) -> list[Received]:
        """All that is kept of it, oldest first. Raises SealBroken."""
        records = await self._vault.read(self._scope, f"{conversation}/")
        return [self._open(record.key, record.blob) for record in records]

    def _open(self, key: str, blob: bytes) -> Received:
        try:
            plain = self._sealer.unseal(blob, f"{self._scope}/{key}")
            it = msgspec.msgpack.decode(plain, type=HistoryRecord)
        except msgspec.MsgspecError:
            raise SealBroken("a record of the history has another shape") from None
        return Received(
            conversation=ConversationId(it.c),
            sequence=it.sequence,
            key=MessageKey(it.key),
            sender=UserId(it.sender),
            device=DeviceId(it.device),
            accepted_ms=it.accepted_ms,
            body=it.body,
            own=it.own,
            problem=it.problem,
            gap=it.gap,
        )
