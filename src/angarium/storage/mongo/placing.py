"""What becomes of each message of a run: a sequence, an earlier result or a refusal. No IO."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from bson import ObjectId

from angarium.errors import KeyExpired, KeyReused, OutOfOrder
from angarium.ids import ConversationId, DeviceId, MessageKey
from angarium.limits import TOMBSTONE_KEPT_S
from angarium.model.message import Accepted, AppendResult, NewMessage, NotAccepted
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.turns import Ring

DIGEST_BYTES = 16  # A sender that collides with itself harms only itself.

Place = tuple[DeviceId, MessageKey]


@dataclass(slots=True)
class Known:
    """What this process has seen a majority hold of a conversation. Other nodes write too, so
    it may be behind, never ahead. `counters` cover every message up to `head`; `mark` is the
    head its document names.
    """

    epoch: int
    head: int
    mark: int
    counters: dict[DeviceId, int] = field(default_factory=dict)
    ring: Ring = field(default_factory=lambda: Ring(b""))


@dataclass(frozen=True, slots=True)
class Earlier:
    """A stored message, as far as a retry of its key needs it."""

    id: ObjectId
    sequence: int
    cs: int
    digest: bytes
    accepted_ms: int
    purged_ms: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A message about to be inserted. `position` is its place in the run."""

    position: int
    document: dict[str, Any]


class Run:
    """Messages of one conversation that are stored in their order.

    Everything before `settled` has its final result. `state` says what the last attempt came
    to: a lost race, or no answer. Each message has an id of its own, kept over all attempts: it
    tells an insert of ours that nobody confirmed from another one.
    """

    def __init__(
        self,
        conversation: ConversationId,
        messages: list[NewMessage],
        make_id: Callable[[], ObjectId] = ObjectId,
    ) -> None:
        self.conversation = conversation
        self.messages = messages
        self.ids = [make_id() for _ in messages]
        self.digests = [message.digest()[:DIGEST_BYTES] for message in messages]
        self.results: list[AppendResult | None] = [None] * len(messages)
        self.settled = 0
        self.state: Literal["fresh", "raced", "unsure"] = "fresh"
        self.planned_at = 0  # The head that the last attempt went on from.

    @property
    def done(self) -> bool:
        return self.settled == len(self.messages)

    @property
    def open(self) -> list[NewMessage]:
        return self.messages[self.settled :]

    @property
    def top(self) -> int:
        """The highest sequence among the results."""
        return max((r.sequence for r in self.results if isinstance(r, Accepted)), default=0)

    def refuse(self, result: NotAccepted) -> None:
        """Give every message that is open this result."""
        for position in range(self.settled, len(self.messages)):
            self.results[position] = result
        self.settled = len(self.messages)


def odd_devices(known: Known, messages: Iterable[NewMessage]) -> set[DeviceId]:
    """Devices with a message that is not simply the next one: their keys must be looked up."""
    counters: dict[DeviceId, int] = {}
    odd: set[DeviceId] = set()
    for message in messages:
        at = counters.get(message.device, known.counters.get(message.device))
        if at is None or message.cs != at + 1:
            odd.add(message.device)
        counters[message.device] = message.cs
    return odd


def plan(
    run: Run,
    known: Known,
    found: dict[Place, Earlier],
    now_ms: int,
    *,
    guards: Guards = ALL_GUARDS,
) -> list[Row]:
    """Fill in the results of all open messages as if every row returned were stored."""
    head, counters = known.head, {m.device: known.counters[m.device] for m in run.open}
    seen = dict(found)
    rows: list[Row] = []
    for position in range(run.settled, len(run.messages)):
        message, digest = run.messages[position], run.digests[position]
        place = (message.device, message.key)
        earlier = seen.get(place)
        at = counters[message.device]
        if earlier is not None:
            own = earlier.id == run.ids[position]
            run.results[position] = _repeat(known.epoch, earlier, digest, now_ms, own=own)
            # Another node may have stored it after the counters were read; what follows it
            # here would be refused by a counter that its sender has left behind.
            counters[message.device] = max(at, earlier.cs)
        elif guards.predecessor and message.cs != at + 1:
            run.results[position] = _refuse(message.cs, at)
        else:
            head += 1
            counters[message.device] = message.cs
            seen[place] = Earlier(run.ids[position], head, message.cs, digest, now_ms)
            run.results[position] = Accepted(known.epoch, head, now_ms)
            rows.append(Row(position, _document(run, position, head, now_ms)))
    return rows


def settle(run: Run, known: Known, rows: list[Row], stored: int) -> None:
    """Note that the first `stored` rows are in the store; what depends on others stays open."""
    for row in rows[:stored]:
        message = run.messages[row.position]
        known.head = max(known.head, row.document["seq"])  # The bus may have told more.
        known.counters[message.device] = max(message.cs, known.counters[message.device])
    run.settled = len(run.messages) if stored == len(rows) else rows[stored].position


def _document(run: Run, position: int, sequence: int, now_ms: int) -> dict[str, Any]:
    message = run.messages[position]
    return {
        "_id": run.ids[position],
        "c": message.conversation,
        "seq": sequence,
        "dev": message.device,
        "from": message.sender,
        "key": message.key,
        "cs": message.cs,
        "kind": message.kind,
        "at": now_ms,
        "hash": run.digests[position],
        "to": dict(message.to),
        "purged_ms": 0,
    }


def _refuse(cs: int, at: int) -> NotAccepted:
    if cs > at or cs < 1:
        return NotAccepted(OutOfOrder(at + 1))
    return NotAccepted(KeyExpired("this counter was used by an older message"))


def _repeat(
    epoch: int, earlier: Earlier, digest: bytes, now_ms: int, *, own: bool
) -> AppendResult:
    if earlier.purged_ms and now_ms - earlier.purged_ms > TOMBSTONE_KEPT_S * 1000:
        return NotAccepted(KeyExpired("the message of this key was purged long ago"))
    if earlier.digest != digest:
        return NotAccepted(KeyReused("this key names another message; choose a new one"))
    return Accepted(epoch, earlier.sequence, earlier.accepted_ms, duplicate=not own)
