"""What the product asks of a store: several small contracts, one suite that tests them all.

Every method may raise Unavailable (the store is slow or gone; nothing half-done is visible) and
StoreUnwritable/DiskFull (a write could not be made durable). A write that returned is durable.
A write that raised Unavailable may or may not have happened; every write is safe to repeat.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from angarium.ids import ConversationId, DeviceId, UserId
from angarium.model.conversation import Conversation, Head, Participant
from angarium.model.device import Device, DeviceList, IdentityKeys
from angarium.model.message import AppendResult, NewMessage, StoredMessage

# --- messages ---------------------------------------------------------------------------------


class MessageLog(Protocol):
    """The log of every conversation: dense sequences from 1, each message once."""

    async def append(self, batch: Sequence[NewMessage]) -> list[AppendResult]:
        """Store each message under the next sequence of its conversation; answer in order.

        Messages of one conversation keep their order in the batch. Appending a known key again
        returns the first result (`duplicate`) and stores nothing; with other content it is
        NotAccepted(KeyReused). A message whose predecessor (`cs` - 1) of the same device is
        not stored is NotAccepted(OutOfOrder). The whole batch is one commit. Does not check
        membership or devices.
        """
        ...

    async def heads(
        self, conversations: Sequence[ConversationId]
    ) -> dict[ConversationId, Head]:
        """The head of each conversation that exists (sequence 0 when it has no message)."""
        ...

    async def read(
        self,
        conversation: ConversationId,
        device: DeviceId,
        first: int,
        last: int,
        messages_max: int,
    ) -> list[StoredMessage]:
        """Messages `first`..`last` in order, at most `messages_max`; `to`: only `device`."""
        ...

    def learn(self, messages: Sequence[StoredMessage]) -> None:
        """Another node stored these and was told so: an adapter that remembers heads may go on
        from there. Waits for nothing, raises nothing; what it does not fit is passed over."""
        ...

    async def last_cs(self, conversation: ConversationId, device: DeviceId) -> int:
        """The highest `cs` stored of this device in this conversation; 0 if none."""
        ...

    async def purge(self, conversation: ConversationId, up_to: int) -> int:
        """Void every message up to and including `up_to`: content gone, tombstone kept.

        The sequence never restarts and a retry of a purged key is a duplicate while its
        tombstone lives (TOMBSTONE_KEPT_S), then KeyExpired. Returns how many were voided.
        """
        ...


class Conversations(Protocol):
    """Who takes part in what."""

    async def create(
        self, conversation: ConversationId, participants: Sequence[Participant], now_ms: int
    ) -> Conversation:
        """Create it, or return the existing one of that id unchanged."""
        ...

    async def find(self, conversation: ConversationId) -> Conversation | None: ...

    async def find_between(self, users: Sequence[UserId]) -> Conversation | None:
        """The oldest conversation whose participants are exactly these users."""
        ...

    async def list_of(self, user: UserId) -> list[Conversation]:
        """Every conversation the user takes part in, oldest first."""
        ...

    async def lists_of(self, users: Collection[UserId]) -> dict[UserId, list[Conversation]]:
        """The same for each of these users, in one query."""
        ...

    async def add(self, conversation: ConversationId, participant: Participant) -> Conversation:
        """Add a participant (a no-op when there). Raises NotFound."""
        ...

    async def remove(self, conversation: ConversationId, user: UserId) -> Conversation:
        """Remove a participant (a no-op when absent). Raises NotFound."""
        ...


ReceiptKind = Literal["delivered", "read"]


class Receipts(Protocol):
    """How far each participant has received and read. Only moves forward."""

    async def fold(
        self, receipts: Sequence[tuple[ConversationId, UserId, ReceiptKind, int]]
    ) -> None:
        """Raise each mark to the sequence given; a lower one changes nothing."""
        ...

    async def list_of(
        self, conversation: ConversationId
    ) -> dict[tuple[UserId, ReceiptKind], int]: ...


# --- keys -------------------------------------------------------------------------------------


class Directory(Protocol):
    """Public keys of users and devices. Checks no signatures: the keys service does."""

    async def put_device(self, device: Device) -> int:
        """Insert or replace; returns the user's new list version.

        Raises Forbidden when the id belongs to another user, or when the stored device of that
        id has other identity keys (a device's keys never change).
        """
        ...

    async def put_identity(self, identity: IdentityKeys) -> int:
        """Insert or replace a user's cross-signing keys; returns the new list version."""
        ...

    async def find_device(self, device: DeviceId) -> Device | None: ...

    async def lists(self, users: Sequence[UserId]) -> dict[UserId, DeviceList]:
        """The device list of each user that has one."""
        ...

    async def remove_device(self, user: UserId, device: DeviceId) -> int:
        """Forget the device and all its prekeys; returns the new list version."""
        ...

    async def put_one_time_keys(
        self, device: DeviceId, keys: Mapping[str, dict[str, Any]]
    ) -> int:
        """Add one-time keys by id (a known id stays as it is); returns how many are stored."""
        ...

    async def put_fallback_key(
        self, device: DeviceId, key_id: str, key: dict[str, Any]
    ) -> None:
        """Replace the device's fallback key."""
        ...

    async def count_one_time_keys(self, device: DeviceId) -> int: ...

    async def take_key(
        self, device: DeviceId, fallback_only: bool = False
    ) -> tuple[str, dict[str, Any]] | None:
        """Remove and return one one-time key (exactly once, whoever else asks), else the
        fallback key (kept), else None."""
        ...


# --- sealed private state and work ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of a held lease. A write with an outdated epoch raises Fenced."""

    lease: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Record:
    """A sealed record. `rev` counts its writes, from 1."""

    scope: str
    key: str
    rev: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Write a record. `expect_rev`: 0 = must be new; None = whatever is there."""

    scope: str
    key: str
    blob: bytes
    expect_rev: int | None = None


@dataclass(frozen=True, slots=True)
class DropRecord:
    """Remove a record; a no-op when absent."""

    scope: str
    key: str


TurnState = Literal[
    "offered", "running", "waiting", "replied", "failed", "expired", "merged", "cancelled"
]
TURN_FINAL = frozenset({"replied", "failed", "expired", "merged", "cancelled"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's answer to one message, unique on (conversation, sequence).

    `body` (the unsealed message) and `progress` (journal: tool ledger, pending question) are
    sealed by the caller; a failed turn keeps them for a while, to be replayed. `trace` is what
    operators may see of the work: metadata, not sealed. `owner`: the gateway device.
    """

    conversation: ConversationId
    sequence: int
    owner: DeviceId
    state: TurnState
    body: bytes
    agent: str = ""
    attempts: int = 0
    reason: str = ""
    progress: bytes = b""
    trace: bytes = b""
    created_ms: int = 0
    updated_ms: int = 0


@dataclass(frozen=True, slots=True)
class PutTurn:
    """Insert or replace a turn. With `only_new`, an existing one is left as it is."""

    turn: Turn
    only_new: bool = False


DeliveryState = Literal[
    "pending", "sending", "unknown", "sent", "delivered", "read", "failed", "refused", "expired"
]
DELIVERY_FINAL = frozenset({"read", "failed", "refused", "expired"})


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt outward, to a contact of a channel. `id` is unique and made by the bridge.

    `body` and `address` are sealed. `order` is the sequence it carries: deliveries of one
    contact leave in this order. `provider_id` is what the provider calls it, once known.
    """

    id: str
    channel: str
    contact: UserId
    order: int
    state: DeliveryState
    body: bytes
    attempts: int = 0
    due_ms: int = 0
    expires_ms: int = 0
    provider_id: str = ""
    reason: str = ""
    updated_ms: int = 0


@dataclass(frozen=True, slots=True)
class PutDelivery:
    """Insert or replace a delivery. With `only_new`, an existing one is left as it is."""

    delivery: Delivery
    only_new: bool = False


Write = PutRecord | DropRecord | PutTurn | PutDelivery


class Vault(Protocol):
    """Sealed records of devices, and the only way to write records, turns and deliveries.

    One `write` applies its parts in order; a crash leaves all of them or a prefix (all or
    nothing where the store has transactions), so put first what must not be missing.

    A write whose outcome is unknown may still land later, even after a newer one of the same
    owner: an adapter over a network must see to it that it cannot (a session whose writes are
    ordered, or a counter of the owner's writes that only grows), because a ratchet that goes
    back uses a key twice. A fence keeps out former owners, not this.
    """

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        """Every record of the scope whose key starts with `prefix`, ordered by key."""
        ...

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        """Apply in order. Raises Fenced (nothing applied), Conflict (`expect_rev` differs)."""
        ...


class Turns(Protocol):
    async def find(self, conversation: ConversationId, sequence: int) -> Turn | None: ...

    async def list_open(self, owner: DeviceId) -> list[Turn]:
        """Turns that are not final, by conversation and sequence."""
        ...

    async def list_recent(self, turns_max: int, state: TurnState | None = None) -> list[Turn]:
        """Newest first, for operators."""
        ...

    async def bury(self, before_ms: int, kept_max: int) -> int:
        """Empty `body` and `progress` of failed turns that were last updated before then, and
        of all but the `kept_max` newest; returns how many. They cannot be replayed any more."""
        ...


class Outbox(Protocol):
    async def find(self, delivery: str) -> Delivery | None: ...

    async def find_by_provider_id(self, channel: str, provider_id: str) -> Delivery | None: ...

    async def list_due(self, channel: str, now_ms: int, deliveries_max: int) -> list[Delivery]:
        """For each contact the lowest-ordered delivery that is pending, sending or unknown, if
        its `due_ms` has come. So one contact never has two in flight."""
        ...

    async def list_of(self, contact: UserId) -> list[Delivery]: ...

    async def list_recent(self, deliveries_max: int) -> list[Delivery]: ...


class Leases(Protocol):
    """Time-limited exclusive rights with a fencing epoch that only grows."""

    async def acquire(
        self, name: str, owner: str, ttl_s: float, now_ms: int, stale: str = ""
    ) -> Fence:
        """Take the lease if free, expired or already this owner's (the epoch grows whenever it
        was not held by this owner). Raises LeaseTaken at once. Never waits.

        Also take it when its renewal is still `stale`, as LeaseTaken named it: whoever has seen
        no renewal for the time of the lease knows better than wall clocks that differ.
        """
        ...

    async def renew(self, fence: Fence, owner: str, ttl_s: float, now_ms: int) -> None:
        """Extend it. Raises Fenced when another owner has it."""
        ...

    async def release(self, fence: Fence, owner: str) -> None:
        """Free it at once; a no-op when it is no longer this owner's."""
        ...


# --- webhooks ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WebhookEntry:
    """One verified webhook, raw and sealed, until it has been worked off."""

    id: int
    channel: str
    event: str
    raw: bytes
    received_ms: int
    attempts: int = 0


class WebhookInbox(Protocol):
    """Raw payloads, stored before the provider gets its 2xx. Kept 8 days for deduplication."""

    async def put(self, channel: str, event: str, raw: bytes, now_ms: int) -> bool:
        """Store durably; False when `event` of this channel was stored before."""
        ...

    async def list_open(self, channel: str, entries_max: int) -> list[WebhookEntry]:
        """Oldest first, those neither done nor given up."""
        ...

    async def finish(self, entry: int, outcome: str) -> None:
        """Mark as done; `outcome` is a word for operators. The raw payload is dropped."""
        ...

    async def fail(self, entry: int, reason: str, give_up: bool) -> None:
        """Count a failed attempt; `give_up` makes it a dead letter (kept, not listed open)."""
        ...

    async def list_dead(self, entries_max: int) -> list[WebhookEntry]: ...

    async def forget(self, before_ms: int) -> int:
        """Drop finished entries received before then; returns how many."""
        ...


# --- the rest ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what; `detail` holds no content and no phone number."""

    at_ms: int
    principal: str
    action: str
    target: str
    outcome: str
    detail: dict[str, Any] = field(default_factory=dict)
    id: int = 0


class Audit(Protocol):
    """Append-only."""

    async def append(self, entry: AuditEntry) -> None: ...

    async def list(self, entries_max: int, before_id: int | None = None) -> list[AuditEntry]:
        """Newest first."""
        ...


class Commands(Protocol):
    """Idempotency of commands that are not messages, 24 h, each key scoped by its stage."""

    async def find(self, stage: str, key: str, now_ms: int) -> bytes | None:
        """The stored answer of an earlier run, unless expired."""
        ...

    async def remember(self, stage: str, key: str, answer: bytes, now_ms: int) -> bytes:
        """Store the answer unless there is one; returns the one that counts."""
        ...


@dataclass(frozen=True, slots=True)
class Blob:
    """An encrypted attachment: `chunks` parts of at most BLOB_CHUNK_BYTES, `size` in all."""

    id: str
    owner: UserId
    conversation: ConversationId
    size: int
    chunks: int
    stored: tuple[int, ...]
    complete: bool
    created_ms: int
    expires_ms: int


class Blobs(Protocol):
    """Ciphertext of attachments, in chunks, resumable both ways."""

    async def open(self, blob: Blob) -> Blob:
        """Begin an upload, or return the one begun under this id. Raises Forbidden when the id
        is another owner's.

        Raises Refused, also for calls at once, when a new one were one more than
        BLOBS_OPEN_PER_USER_MAX incomplete ones of this owner, or all of the owner's together
        over BLOB_BYTES_PER_USER_MAX, each counted as BLOB_BYTES_COUNTED_MIN at least. What
        expires at `created_ms` or before does not count.
        """
        ...

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> Blob:
        """Store one chunk durably (the same again is a no-op). Raises NotFound, TooLarge,
        Malformed (no such index, or a wrong length)."""
        ...

    async def find(self, blob: str) -> Blob | None: ...

    async def read_chunk(self, blob: str, index: int) -> bytes:
        """Raises NotFound."""
        ...

    async def drop(self, blob: str) -> None: ...

    async def expire(self, now_ms: int) -> int:
        """Drop what has expired; returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class Store:
    """All contracts of one store, as `node.py` hands them out."""

    log: MessageLog
    conversations: Conversations
    receipts: Receipts
    directory: Directory
    vault: Vault
    turns: Turns
    outbox: Outbox
    leases: Leases
    webhooks: WebhookInbox
    audit: Audit
    commands: Commands
    blobs: Blobs
