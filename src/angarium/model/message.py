"""Messages as the relay sees them: ciphertexts, addresses and order. No plaintext type."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from angarium.errors import AngariumError
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What a device asks to append.

    `cs` counts this device's messages in this conversation, dense from 1. `to` maps each
    recipient device to its own ciphertext.
    """

    conversation: ConversationId
    sender: UserId
    device: DeviceId
    key: MessageKey
    cs: int
    kind: str
    to: Mapping[DeviceId, bytes]
    sent_ms: int

    def digest(self) -> bytes:
        """SHA-256 over kind and ciphertexts, so that a reused key can be told from a retry."""
        digest = hashlib.sha256(self.kind.encode())
        for device in sorted(self.to):
            digest.update(b"\x00" + device.encode() + b"\x00")
            digest.update(len(self.to[device]).to_bytes(4, "big") + self.to[device])
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Accepted:
    """Stored durably under `sequence`; `duplicate` when an earlier append had done it."""

    epoch: int
    sequence: int
    accepted_ms: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """Not stored, and why (OutOfOrder, KeyReused, KeyExpired, NotFound, Unavailable)."""

    error: AngariumError


AppendResult = Accepted | NotAccepted


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One entry of the log. `to` may hold only the devices that were asked for.

    `kind` is `void` when the message was purged: its sequence stays, its content is gone.
    """

    conversation: ConversationId
    epoch: int
    sequence: int
    key: MessageKey
    sender: UserId
    device: DeviceId
    cs: int
    kind: str
    accepted_ms: int
    to: Mapping[DeviceId, bytes] = field(default_factory=dict)
