"""Messages as the relay sees them: ciphertexts, addresses and order. No plaintext type."""

import hashlib
from collections.abc import Mapping

import msgspec

from angarium.errors import AngariumError
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId


class NewMessage(msgspec.Struct, frozen=True, gc=False):
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
        pieces = [self.kind.encode()]
        for device in sorted(self.to):
            ciphertext = self.to[device]
            pieces += b"\x00", device.encode(), b"\x00", len(ciphertext).to_bytes(4, "big")
            pieces.append(ciphertext)
        return hashlib.sha256(b"".join(pieces)).digest()


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """Stored durably under `sequence`; `duplicate` when an earlier append had done it."""

    epoch: int
    sequence: int
    accepted_ms: int
    duplicate: bool = False


class NotAccepted(msgspec.Struct, frozen=True):
    """Not stored, and why (OutOfOrder, KeyReused, KeyExpired, NotFound, Unavailable).

    The error is an answer now and forgets where it was raised: the frames there hold the whole
    batch, and the batch holds its answers.
    """

    error: AngariumError

    def __post_init__(self) -> None:
        self.error.__traceback__ = self.error.__context__ = self.error.__cause__ = None


AppendResult = Accepted | NotAccepted


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
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
    to: Mapping[DeviceId, bytes] = {}
