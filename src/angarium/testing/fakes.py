"""In-memory stand-ins that keep the contracts: a relay, a device on it, a sealer.

`MemoryEndpoint` keeps what it must keep in a real vault, so a test may throw it away at any
moment, as a crash would, and make another one over the same vault and relay.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from angarium.e2ee.body import Body, pack, unpack
from angarium.errors import AngariumError, NotFound, SealBroken, StoreUnwritable, Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId, uuid7
from angarium.sdk.contract import Delivered, Received, Sink
from angarium.storage.contract import Fence, PutRecord, Vault, Write


class FixedKeySealer:
    """Real AES-256-GCM under a key that is simply given."""

    def __init__(self, key: bytes = bytes(32)) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plaintext: bytes, place: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, plaintext, place.encode())

    def unseal(self, blob: bytes, place: str) -> bytes:
        try:
            return self._cipher.decrypt(blob[:12], blob[12:], place.encode())
        except InvalidTag:
            raise SealBroken("another key, another place or changed bytes") from None


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as the relay stored it."""

    conversation: ConversationId
    sequence: int
    key: MessageKey
    body: Body


class MemoryRelay:
    """Orders messages: dense sequences, each key once. Survives the crashes of its devices."""

    def __init__(self) -> None:
        self.log: dict[ConversationId, list[Sent]] = {}
        self.on_append: Callable[[Sent], None] = lambda sent: None

    def append(self, conversation: ConversationId, key: MessageKey, body: Body) -> Sent:
        """Store it, or return what an earlier append of the key stored."""
        log = self.log.setdefault(conversation, [])
        known = next((sent for sent in log if sent.key == key), None)
        if known is not None:
            return known
        sent = Sent(conversation, len(log) + 1, key, body)
        log.append(sent)
        self.on_append(sent)
        return sent

    def sent_by_key(self, key: MessageKey) -> Sent | None:
        for log in self.log.values():
            for sent in log:
                if sent.key == key:
                    return sent
        return None


@dataclass(frozen=True, slots=True)
class SentPart:
    """An ephemeral piece of a reply, as it left."""

    conversation: ConversationId
    ref: str
    index: int
    body: Body
    stream: bytes


@dataclass(slots=True)
class Seen:
    """What left this endpoint without being stored."""

    parts: list[SentPart] = field(default_factory=list)
    typing: list[tuple[ConversationId, bool]] = field(default_factory=list)
    read: list[tuple[ConversationId, int]] = field(default_factory=list)


_pack_outgoing = msgspec.msgpack.Encoder().encode
_unpack_outgoing = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class MemoryEndpoint:
    """An Endpoint without network and encryption. `receive` plays the relay's delivery."""

    def __init__(
        self,
        *,
        user: UserId,
        device: DeviceId,
        vault: Vault,
        relay: MemoryRelay,
        sink: Sink,
        fence: Fence | None = None,
    ) -> None:
        self.user, self.device = user, device
        self._vault, self._relay, self._sink, self._fence = vault, relay, sink, fence
        self._scope = f"device/{device}"
        self._keys: set[MessageKey] = set()
        self.seen = Seen()
        self.error: AngariumError | None = None
        self._ended = asyncio.Event()

    def end(self, error: AngariumError) -> None:
        """The relay ends this device: displaced, refused, ..."""
        self.error = error
        self._ended.set()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    async def open(self) -> None:
        """Send again whatever was submitted."""
        for record in await self._vault.read(self._scope, "outbox/"):
            conversation, packed = _unpack_outgoing(record.blob)
            key = MessageKey(record.key.removeprefix("outbox/"))
            self._keys.add(key)
            self._relay.append(ConversationId(conversation), key, unpack(packed))

    async def close(self) -> None:
        self._ended.set()

    async def converse(self, users: Sequence[UserId]) -> ConversationId:
        return ConversationId(uuid7(0, lambda count: "".join(sorted(users)).encode()[:count]))

    async def submit(
        self,
        conversation: ConversationId,
        body: Body,
        key: MessageKey | None = None,
        also: Sequence[Write] = (),
    ) -> MessageKey:
        if self.error is not None:
            raise self.error
        key = key or MessageKey(uuid7(0))
        if key in self._keys:
            return key
        record = PutRecord(
            self._scope, f"outbox/{key}", _pack_outgoing((conversation, pack(body)))
        )
        try:
            await self._vault.write([record, *also], self._fence)
        except (Unavailable, StoreUnwritable):
            # It may have happened all the same; then the message is on its way.
            if not await self._vault.read(self._scope, record.key):
                raise
        self._keys.add(key)
        self._relay.append(conversation, key, body)
        return key

    async def sent(self, key: MessageKey) -> Delivered:
        stored = self._relay.sent_by_key(key)
        if stored is None:
            raise NotFound("no such message was submitted here")
        return Delivered(stored.conversation, stored.sequence, key)

    async def receive(self, received: Received) -> None:
        """Commit a message as a device does: the sink's writes and the cursor in one write."""
        place = f"cursor/{received.conversation}"
        cursor = PutRecord(self._scope, place, str(received.sequence).encode())
        await self._vault.write([cursor, *self._sink.plan(received)], self._fence)
        self._sink.committed(received)

    def part(
        self, conversation: ConversationId, ref: str, index: int, body: Body, stream: bytes
    ) -> None:
        self.seen.parts.append(SentPart(conversation, ref, index, body, stream))

    def typing(self, conversation: ConversationId, on: bool) -> None:
        self.seen.typing.append((conversation, on))

    def mark_read(self, conversation: ConversationId, sequence: int) -> None:
        self.seen.read.append((conversation, sequence))


def heard(relay: MemoryRelay, received: Received) -> Received:
    """Put a person's message into the relay's log; returns it with its sequence."""
    sent = relay.append(received.conversation, received.key, received.body)
    return replace(received, sequence=sent.sequence)
