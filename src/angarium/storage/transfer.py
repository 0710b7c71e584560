"""One end of a copy from store to store, in rows that every adapter can read and write.

A row holds what is promised about a thing, and nothing of how an adapter keeps it. So any two
adapters can be the ends of a copy, and a copy is compared by hashing rows, not files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from angarium.limits import COMMAND_KEY_KEPT_S, COPY_LAPSING_S, WEBHOOK_KEPT_S
from angarium.storage.contract import Delivery, Record, Turn


class Epoch(msgspec.Struct, frozen=True):
    """The epoch in which new conversations begin; there is one only after a restore."""

    value: int


class ConversationRow(msgspec.Struct, frozen=True):
    """`participants` (user, role) in the order in which they came."""

    name: str
    epoch: int
    floor: int
    created_ms: int
    participants: tuple[tuple[str, str], ...]


class MessageRow(msgspec.Struct, frozen=True, gc=False):
    """A message whole, with what a retry of its key is compared by; a tombstone likewise."""

    conversation: str
    sequence: int
    sender: str
    device: str
    key: str
    cs: int
    kind: str
    accepted_ms: int
    digest: bytes
    to: Mapping[str, bytes]
    purged_ms: int


class ReceiptRow(msgspec.Struct, frozen=True):
    """The marks of a participant; 0: none."""

    conversation: str
    user: str
    delivered: int
    read: int


class DeviceListRow(msgspec.Struct, frozen=True):
    """A user's list version and encoded cross-signing keys."""

    user: str
    version: int
    master: bytes | None
    self_signing: bytes | None


class DeviceRow(msgspec.Struct, frozen=True):
    """A device with its encoded keys; without: removed, and its id stays its user's."""

    device: str
    user: str
    kind: str
    keys: bytes | None
    signed: bool
    created_ms: int


class PrekeyRow(msgspec.Struct, frozen=True):
    """A one-time key, or a fallback key, encoded."""

    device: str
    key_id: str
    key: bytes


class LeaseRow(msgspec.Struct, frozen=True):
    """A lease, free (no owner) or held; its epoch must never go back."""

    name: str
    owner: str
    epoch: int
    until_ms: int


class WebhookRow(msgspec.Struct, frozen=True):
    """A webhook that is open, done or dead."""

    id: int
    channel: str
    event: str
    raw: bytes
    received_ms: int
    attempts: int
    state: str
    outcome: str


class AuditRow(msgspec.Struct, frozen=True):
    """An entry of the audit trail; `detail` is JSON."""

    id: int
    at_ms: int
    principal: str
    action: str
    target: str
    outcome: str
    detail: bytes


class CommandRow(msgspec.Struct, frozen=True):
    """The remembered answer of a command."""

    stage: str
    key: str
    answer: bytes
    created_ms: int


class ChunkRow(msgspec.Struct, frozen=True, gc=False):
    """A part of an attachment with its bytes."""

    blob: str
    position: int
    digest: str
    content: bytes


class BlobRow(msgspec.Struct, frozen=True):
    """An attachment's description; `parts` (position, size, digest) are those stored."""

    id: str
    owner: str
    conversation: str
    size: int
    chunks: int
    created_ms: int
    expires_ms: int
    parts: tuple[tuple[int, int, str], ...]


Row: TypeAlias = (
    Epoch | ConversationRow | MessageRow | ReceiptRow | DeviceListRow | DeviceRow | PrekeyRow
    | Record | Turn | Delivery | LeaseRow | WebhookRow | AuditRow | CommandRow | ChunkRow
    | BlobRow
)  # fmt: skip

KINDS = (
    "epoch", "conversations", "messages", "receipts", "device_lists", "devices",
    "one_time_keys", "fallback_keys", "records", "turns", "deliveries", "leases", "webhooks",
    "audit", "commands", "chunks", "blobs",
)  # fmt: skip
"""In the order in which they are copied: what others name comes before them."""

ORDERED = frozenset({"devices", "one_time_keys", "turns", "deliveries"})
"""Kinds whose order of creation is seen by readers; it is copied and compared, too."""


class Page(msgspec.Struct, frozen=True):
    """Some rows, and where to go on: `after` is opaque to all but the adapter that made it.

    Without rows there are no more.
    """

    rows: Sequence[Row]
    after: str


class Step(msgspec.Struct, frozen=True):
    """How far one kind is copied."""

    rows: int = 0
    after: str = ""
    done: bool = False


class Progress(msgspec.Struct, frozen=True):
    """Kept at the target as long as the copy is not done. `source` is the source's identity."""

    source: int
    steps: Mapping[str, Step] = {}

    def of(self, kind: str) -> Step:
        return self.steps.get(kind, Step())

    def moved(self, kind: str, step: Step) -> "Progress":
        """The same, with this kind at `step`."""
        return Progress(self.source, {**self.steps, kind: step})


class Source(Protocol):
    """The end that is read. Nobody else may write to it meanwhile."""

    async def rest(self, now_ms: int) -> int:
        """Make sure that no node serves it, as far as the store can tell, and keep others from
        writing where it can; returns the store's identity, which it gets here.

        Raises StoreInUse, SchemaMismatch, UnfinishedCopy.
        """
        ...

    async def read(self, kind: str, after: str, rows_max: int) -> Page:
        """The rows after that place ("": from the beginning) in the adapter's own order, which
        is the order of creation for ORDERED kinds. At most `rows_max`, and no more than one
        row over COPY_BATCH_BYTES. Raises StoreUnwritable (an attachment has lost its bytes).
        """
        ...

    async def close(self) -> None: ...


class Target(Source, Protocol):
    """The end that is written. Until `finish` no node can open it."""

    async def begin(self, source: int) -> Progress:
        """Begin a copy of this source, or go on with the one begun.

        Raises StoreNotEmpty (there is anything but an unfinished copy of this source).
        """
        ...

    async def write(self, kind: str, rows: Sequence[Row], progress: Progress) -> None:
        """Store rows, those that are there already included, then `progress`, which says how
        far this kind is with them. Durable when it returns."""
        ...

    async def finish(self) -> None:
        """The copy is done: let nodes open it."""
        ...

    async def drop(self) -> None:
        """Remove what an unfinished copy has written; a no-op without one."""
        ...


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_encode_json = msgspec.json.Encoder().encode
decode_progress = msgspec.json.Decoder(Progress).decode


def encode_progress(progress: Progress) -> str:
    """As the text that a target keeps."""
    return _encode_json(progress).decode()


def row_bytes(row: Row) -> int:
    """About how much memory a row takes; only the large fields count."""
    match row:
        case MessageRow(to=to):
            return 256 + sum(map(len, to.values()))
        case ChunkRow(content=content):
            return len(content)
        case Record(blob=blob):
            return 128 + len(blob)
        case WebhookRow(raw=raw):
            return 256 + len(raw)
        case Turn(body=body, progress=progress, trace=trace):
            return 256 + len(body) + len(progress) + len(trace)
        case Delivery(body=body):
            return 256 + len(body)
    return 512


class Tally:
    """Count and hash of the rows of one kind. The order of rows matters for ORDERED kinds only:
    hashes are added, so that each adapter may read in the order that suits it."""

    def __init__(self, kind: str, now_ms: int) -> None:
        """Rows that the store itself may drop at about `now_ms` are left out."""
        self.rows = 0
        self._ordered, self._now_ms, self._sum = kind in ORDERED, now_ms, 0

    def add(self, row: Row) -> None:
        if _lapses(row, self._now_ms):
            return
        self.rows += 1
        place: Any = self.rows if self._ordered else 0
        self._sum += int.from_bytes(hashlib.sha256(_encode((place, row))).digest(), "big")

    @property
    def digest(self) -> str:
        return f"{self._sum % 2**256:064x}"


def _lapses(row: Row, now_ms: int) -> bool:
    match row:
        case CommandRow(created_ms=at_ms):
            kept_s = COMMAND_KEY_KEPT_S
        case WebhookRow(state="done", received_ms=at_ms):
            kept_s = WEBHOOK_KEPT_S
        case _:
            return False
    return at_ms <= now_ms - (kept_s - COPY_LAPSING_S) * 1000
