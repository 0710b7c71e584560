"""The append: observed head + 1, decided by unique indexes; dense, ordered, once per key.

Heads and counters are cached across commits and may be stale, because other processes write to
the same file. The unique indexes notice; then everything is read again under the write lock,
where a second look is final. Runs on the writer's thread only, inside the group's transaction.
"""

import json
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from angarium.clock import Clock
from angarium.errors import KeyExpired, KeyReused, NotFound, OutOfOrder, Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey
from angarium.limits import (
    STORE_CONVERSATIONS_CACHED,
    STORE_ROWS_PER_STATEMENT,
    TOMBSTONE_KEPT_S,
)
from angarium.model.message import Accepted, AppendResult, NewMessage, NotAccepted
from angarium.storage.sqlite.guards import Guards

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COLUMNS = "conversation, seq, writer, key, cs, kind, accepted_ms, digest, sealed"
_DIGEST_BYTES = 16  # A sender that collides with itself harms only itself.
_encode = msgspec.msgpack.Encoder().encode
_is_uuid = _UUID.fullmatch

Row = tuple[int, int, int, bytes | str, int, str, int, bytes, bytes]


def pack_key(key: str) -> bytes | str:
    """A canonical UUID as 16 bytes, so that the index is small; anything else as it is."""
    return bytes.fromhex(key.replace("-", "")) if _is_uuid(key) else key


def unpack_key(packed: bytes | str) -> MessageKey:
    """The inverse of `pack_key`."""
    if isinstance(packed, str):
        return MessageKey(packed)
    text = packed.hex()
    parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
    return MessageKey("-".join(parts))


@dataclass(slots=True)
class _Writer:
    """A device in a conversation, and the highest counter it stored there."""

    ref: int
    cs: int


@dataclass(slots=True)
class _Known:
    """What is remembered of a conversation between commits."""

    ref: int
    epoch: int
    head: int
    writers: dict[DeviceId, _Writer] = field(default_factory=dict)


@dataclass(slots=True)
class _Plan:
    """Rows that will be inserted, and their keys for retries within the batch."""

    now_ms: int
    rows: list[Row] = field(default_factory=list)
    fresh: dict[tuple[int, bytes | str], tuple[int, bytes, int, int]] = field(
        default_factory=dict
    )


class Appender:
    """Places batches of messages. Call `forget` whenever the transaction did not commit."""

    def __init__(self, clock: Clock, guards: Guards) -> None:
        self._clock = clock
        self._guards = guards
        self._known: OrderedDict[ConversationId, _Known] = OrderedDict()

    def forget(self) -> None:
        """Drop every cached head and counter."""
        self._known.clear()

    def append(
        self, connection: sqlite3.Connection, batch: Sequence[NewMessage]
    ) -> list[AppendResult]:
        """Place each message in order. Raises sqlite3.Error other than IntegrityError."""
        connection.execute("SAVEPOINT append")
        for careful in (False, False, True):
            try:
                results = self._try(connection, batch, careful=careful)
            except sqlite3.IntegrityError:
                # A stale head or counter, or a reused key: look again, at last one by one.
                self.forget()
                connection.execute("ROLLBACK TO append")
            else:
                break
        else:
            results = [NotAccepted(Unavailable("no free sequence was found")) for _ in batch]
        connection.execute("RELEASE append")
        while len(self._known) > STORE_CONVERSATIONS_CACHED:
            self._known.popitem(last=False)
        return results

    def _try(
        self, connection: sqlite3.Connection, batch: Sequence[NewMessage], *, careful: bool
    ) -> list[AppendResult]:
        self._load(connection, batch)
        plan = _Plan(self._clock.now_ms())
        results: list[AppendResult] = []
        for message in batch:
            results.append(self._place(connection, plan, message, careful=careful))
            if careful:
                _insert(connection, plan.rows)
                plan.rows.clear()
        _insert(connection, plan.rows)
        return results

    def _place(
        self, connection: sqlite3.Connection, plan: _Plan, message: NewMessage, *, careful: bool
    ) -> AppendResult:
        known = self._known.get(message.conversation)
        if known is None:
            return NotAccepted(NotFound("no such conversation"))
        writer = known.writers[message.device]
        key, digest = pack_key(message.key), message.digest()[:_DIGEST_BYTES]
        if careful or message.cs != writer.cs + 1:
            earlier = self._settle_odd(connection, plan, known, writer, message, key, digest)
            if earlier is not None:
                return earlier
        known.head += 1
        writer.cs = max(writer.cs, message.cs)
        plan.fresh[writer.ref, key] = (known.head, digest, plan.now_ms, 0)
        plan.rows.append(
            (known.ref, known.head, writer.ref, key, message.cs, message.kind, plan.now_ms,
             digest, _encode(dict(message.to)))
        )  # fmt: skip
        return Accepted(known.epoch, known.head, plan.now_ms)

    def _settle_odd(
        self,
        connection: sqlite3.Connection,
        plan: _Plan,
        known: _Known,
        writer: _Writer,
        message: NewMessage,
        key: bytes | str,
        digest: bytes,
    ) -> AppendResult | None:
        """A retry's first result, or why not; None when it is new and in order after all."""
        if self._guards.unique_key:
            earlier = (
                plan.fresh.get((writer.ref, key))
                or connection.execute(
                    "SELECT seq, digest, accepted_ms, purged_ms FROM messages"
                    " WHERE writer = ? AND key = ?",
                    (writer.ref, key),
                ).fetchone()
            )
            if earlier is not None:
                return _repeat(known.epoch, earlier, digest, plan.now_ms)
        stored = connection.execute(
            "SELECT coalesce(max(cs), 0) FROM messages WHERE writer = ?", (writer.ref,)
        ).fetchone()[0]
        writer.cs = max(writer.cs, stored)
        if message.cs == writer.cs + 1 or not self._guards.predecessor:
            return None
        if message.cs > writer.cs or message.cs < 1:
            return NotAccepted(OutOfOrder(writer.cs + 1))
        if not self._guards.unique_key:
            return None
        return NotAccepted(KeyExpired("this counter was used by an older message"))

    # --- what is known ---

    def _load(self, connection: sqlite3.Connection, batch: Sequence[NewMessage]) -> None:
        wanted = {message.conversation for message in batch}
        for name in wanted & self._known.keys():
            self._known.move_to_end(name)
        missing = wanted - self._known.keys()
        if missing:
            for name, ref, epoch, head in connection.execute(
                "SELECT name, id, epoch, (SELECT coalesce(max(seq), 0) FROM messages"
                " WHERE conversation = conversations.id) FROM conversations"
                " WHERE name IN (SELECT value FROM json_each(?))",
                (json.dumps(list(missing)),),
            ):
                self._known[name] = _Known(ref, epoch, head)
        new: dict[tuple[int, str], tuple[_Known, NewMessage]] = {}
        for message in batch:
            known = self._known.get(message.conversation)
            if known is not None and message.device not in known.writers:
                new[known.ref, message.device] = (known, message)
        if new:
            self._load_writers(connection, new)

    def _load_writers(
        self,
        connection: sqlite3.Connection,
        new: dict[tuple[int, str], tuple[_Known, NewMessage]],
    ) -> None:
        pairs = json.dumps(
            [[ref, device, message.sender] for (ref, device), (_, message) in new.items()]
        )
        connection.execute(
            "INSERT OR IGNORE INTO writers (conversation, device, sender)"
            " SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
            (pairs,),
        )
        for ref, device, writer, cs in connection.execute(
            "SELECT w.conversation, w.device, w.id, (SELECT coalesce(max(cs), 0) FROM messages"
            " WHERE writer = w.id) FROM json_each(?) AS pair JOIN writers AS w"
            " ON w.conversation = pair.value ->> 0 AND w.device = pair.value ->> 1",
            (pairs,),
        ):
            new[ref, device][0].writers[device] = _Writer(writer, cs)


def _repeat(
    epoch: int, earlier: tuple[int, bytes, int, int], digest: bytes, now_ms: int
) -> AppendResult:
    sequence, first_digest, accepted_ms, purged_ms = earlier
    if purged_ms and now_ms - purged_ms > TOMBSTONE_KEPT_S * 1000:
        return NotAccepted(KeyExpired("the message of this key was purged long ago"))
    if first_digest != digest:
        return NotAccepted(KeyReused("this key names another message; choose a new one"))
    return Accepted(epoch, sequence, accepted_ms, duplicate=True)


def _insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Insert all with few steps: each step gives up the interpreter and must win it back."""
    start = 0
    size = STORE_ROWS_PER_STATEMENT
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        values = [value for row in rows[start : start + size] for value in row]
        connection.execute(_STATEMENTS[size], values)
        start += size


_STATEMENTS = {
    1 << power: f"INSERT INTO messages ({_COLUMNS}) VALUES "  # noqa: S608
    + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * (1 << power))
    for power in range(STORE_ROWS_PER_STATEMENT.bit_length())
}
