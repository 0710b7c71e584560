"""How each kind of row lies in the embedded store's tables."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import msgspec

from angarium.storage.contract import Delivery, Record, Turn
from angarium.storage.sqlite.appender import pack_key, unpack_key
from angarium.storage.sqlite.work import DELIVERY_COLUMNS, TURN_COLUMNS
from angarium.storage.transfer import (
    AuditRow,
    BlobRow,
    CommandRow,
    ConversationRow,
    DeviceListRow,
    DeviceRow,
    Epoch,
    LeaseRow,
    MessageRow,
    PrekeyRow,
    ReceiptRow,
    WebhookRow,
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, bytes]).decode

Write = Callable[[sqlite3.Connection, int, Sequence[Any]], None]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` begin with the key, whose values before the first row are `start`. `rest`:
    FROM with its joins, and `group` what follows WHERE. `build` takes the columns; `write`
    stores rows, the first of which is the n-th of its kind."""

    key: str
    start: tuple[int | str, ...]
    columns: str
    rest: str
    build: Callable[..., Any]
    write: Write
    group: str = ""

    @property
    def select(self) -> str:
        marks = ", ".join("?" * len(self.start))
        return (
            f"SELECT {self.key}, {self.columns} FROM {self.rest}"  # noqa: S608
            f" WHERE ({self.key}) > ({marks}) {self.group} ORDER BY {self.key} LIMIT ?"
        )


def _insert(table: str, columns: str, values: Callable[[int, Any], tuple[Any, ...]]) -> Write:
    marks = ", ".join("?" * len(columns.split(",")))
    statement = f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608

    def write(connection: sqlite3.Connection, first: int, rows: Sequence[Any]) -> None:
        connection.executemany(statement, [values(n, row) for n, row in enumerate(rows, first)])

    return write


def _numbered(_: int, row: Any) -> tuple[Any, ...]:
    """The values of a row that has a number of its own, or needs none."""
    return msgspec.structs.astuple(row)


def _conversation(
    _: int, name: str, epoch: int, floor: int, created_ms: int, participants: str
) -> ConversationRow:
    pairs = tuple((user, role) for user, role in json.loads(participants))
    return ConversationRow(name, epoch, floor, created_ms, pairs)


def _write_conversations(
    connection: sqlite3.Connection, first: int, rows: Sequence[ConversationRow]
) -> None:
    for n, row in enumerate(rows, first):
        connection.execute(
            "INSERT OR REPLACE INTO conversations (id, name, epoch, floor, created_ms)"
            " VALUES (?, ?, ?, ?, ?)",
            (n, row.name, row.epoch, row.floor, row.created_ms),
        )
        connection.execute("DELETE FROM participants WHERE conversation = ?", (n,))
        connection.executemany(
            "INSERT INTO participants (conversation, user, role) VALUES (?, ?, ?)",
            [(n, user, role) for user, role in row.participants],
        )


def _message(_: int, *values: Any) -> MessageRow:
    name, sequence, sender, device, key, cs, kind, at_ms, digest, sealed, purged_ms = values
    return MessageRow(
        name, sequence, sender, device, unpack_key(key), cs, kind, at_ms, digest,
        _decode(sealed), purged_ms,
    )  # fmt: skip


def _refs(connection: sqlite3.Connection, rows: Sequence[Any]) -> dict[str, int]:
    """The numbers of the conversations that rows name."""
    names = json.dumps(sorted({row.conversation for row in rows}))
    return dict(
        connection.execute(
            "SELECT name, id FROM conversations WHERE name IN (SELECT value FROM json_each(?))",
            (names,),
        )
    )


def _write_messages(
    connection: sqlite3.Connection, first: int, rows: Sequence[MessageRow]
) -> None:
    refs = _refs(connection, rows)
    connection.executemany(
        "INSERT OR IGNORE INTO writers (conversation, device, sender) VALUES (?, ?, ?)",
        {(refs[row.conversation], row.device, row.sender) for row in rows},
    )
    connection.executemany(
        "INSERT OR REPLACE INTO messages (id, conversation, seq, writer, key, cs, kind,"
        " accepted_ms, digest, sealed, purged_ms) VALUES (?, ?, ?, (SELECT id FROM writers"
        " WHERE conversation = ? AND device = ?), ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                n, refs[row.conversation], row.sequence, refs[row.conversation], row.device,
                pack_key(row.key), row.cs, row.kind, row.accepted_ms, row.digest,
                _encode(dict(row.to)), row.purged_ms,
            )
            for n, row in enumerate(rows, first)
        ],
    )  # fmt: skip


def _receipt(_: int, user: str, name: str, delivered: int, read: int) -> ReceiptRow:
    return ReceiptRow(name, user, delivered, read)


def _write_receipts(connection: sqlite3.Connection, _: int, rows: Sequence[ReceiptRow]) -> None:
    refs = _refs(connection, rows)
    connection.executemany(
        "INSERT OR REPLACE INTO receipts (conversation, user, kind, seq) VALUES (?, ?, ?, ?)",
        [
            (refs[row.conversation], row.user, kind, sequence)
            for row in rows
            for kind, sequence in (("delivered", row.delivered), ("read", row.read))
            if sequence
        ],
    )


def _device(_: int, *values: Any) -> DeviceRow:
    device, user, kind, keys, signed, created_ms = values
    return DeviceRow(device, user, kind, keys, bool(signed), created_ms)


def _blob(*values: Any) -> BlobRow:
    *described, parts = values
    stored = tuple((at, size, digest) for at, size, digest in json.loads(parts))
    return BlobRow(*described, stored)  # type: ignore[call-arg]


def _write_blobs(connection: sqlite3.Connection, _: int, rows: Sequence[BlobRow]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(row)[:-1] for row in rows],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO blob_chunks (blob, position, size, digest) VALUES (?, ?, ?, ?)",
        [(row.id, *part) for row in rows for part in row.parts],
    )


_PARTICIPANTS = (
    "(SELECT json_group_array(json_array(user, role)) FROM (SELECT user, role"
    " FROM participants WHERE conversation = c.id ORDER BY id))"
)
_PARTS = (
    "(SELECT json_group_array(json_array(position, size, digest)) FROM (SELECT position, size,"
    " digest FROM blob_chunks WHERE blob = blobs.id ORDER BY position))"
)
_MARK = "coalesce(max(CASE WHEN r.kind = '{}' THEN r.seq END), 0)"
_WEBHOOK = "channel, event, raw, received_ms, attempts, state, outcome"
_AUDIT = "at_ms, principal, action, target, outcome, detail"

TABLES: Mapping[str, Table] = {
    "epoch": Table(
        "name", ("",), "value", "(SELECT * FROM meta WHERE name = 'epoch')",
        lambda _, value: Epoch(value),
        _insert("meta", "name, value", lambda _, row: ("epoch", row.value)),
    ),
    "conversations": Table(
        "c.id", (0,), f"c.name, c.epoch, c.floor, c.created_ms, {_PARTICIPANTS}",
        "conversations AS c", _conversation, _write_conversations,
    ),
    "messages": Table(
        "m.id", (0,),
        "c.name, m.seq, w.sender, w.device, m.key, m.cs, m.kind, m.accepted_ms, m.digest,"
        " m.sealed, m.purged_ms",
        "messages AS m CROSS JOIN conversations AS c ON c.id = m.conversation"
        " CROSS JOIN writers AS w ON w.id = m.writer",
        _message, _write_messages,
    ),
    "receipts": Table(
        "r.conversation, r.user", (0, ""),
        f"c.name, {_MARK.format('delivered')}, {_MARK.format('read')}",
        "receipts AS r CROSS JOIN conversations AS c ON c.id = r.conversation",
        _receipt, _write_receipts, group="GROUP BY r.conversation, r.user",
    ),
    "device_lists": Table(
        "user", ("",), "version, master, self_signing", "device_lists", DeviceListRow,
        _insert("device_lists", "user, version, master, self_signing", _numbered),
    ),
    "devices": Table(
        "id", (0,), "device, user, kind, keys, signed, created_ms", "devices", _device,
        _insert(
            "devices", "id, device, user, kind, keys, signed, created_ms",
            lambda n, row: (n, *msgspec.structs.astuple(row)),
        ),
    ),
    "one_time_keys": Table(
        "id", (0,), "device, key_id, key", "one_time_keys",
        lambda _, *values: PrekeyRow(*values),
        _insert(
            "one_time_keys", "id, device, key_id, key",
            lambda n, row: (n, *msgspec.structs.astuple(row)),
        ),
    ),
    "fallback_keys": Table(
        "device", ("",), "key_id, key", "fallback_keys", PrekeyRow,
        _insert("fallback_keys", "device, key_id, key", _numbered),
    ),
    "records": Table(
        "id", (0,), "scope, key, rev, blob", "records", lambda _, *values: Record(*values),
        _insert("records", "id, scope, key, rev, blob", lambda n, row: (n, *astuple(row))),
    ),
    "turns": Table(
        "id", (0,), TURN_COLUMNS, "turns", lambda _, *values: Turn(*values),
        _insert("turns", f"id, {TURN_COLUMNS}", lambda n, row: (n, *astuple(row))),
    ),
    "deliveries": Table(
        "pk", (0,), DELIVERY_COLUMNS, "deliveries", lambda _, *values: Delivery(*values),
        _insert("deliveries", f"pk, {DELIVERY_COLUMNS}", lambda n, row: (n, *astuple(row))),
    ),
    "leases": Table(
        "name", ("",), "owner, epoch, until_ms", "leases", LeaseRow,
        _insert("leases", "name, owner, epoch, until_ms", _numbered),
    ),
    "webhooks": Table(
        "id", (0,), _WEBHOOK, "webhooks", WebhookRow,
        _insert("webhooks", f"id, {_WEBHOOK}", _numbered),
    ),
    "audit": Table(
        "id", (0,), _AUDIT, "audit", AuditRow, _insert("audit", f"id, {_AUDIT}", _numbered)
    ),
    "commands": Table(
        "stage, key", ("", ""), "answer, created_ms", "commands", CommandRow,
        _insert("commands", "stage, key, answer, created_ms", _numbered),
    ),
    "chunks": Table(
        "blob, position", ("", -1), "digest", "blob_chunks",
        lambda *values: values, lambda *_: None,  # Bytes lie in files: see transfer.py.
    ),
    "blobs": Table(
        "id", ("",),
        f"owner, conversation, size, chunks, created_ms, expires_ms, {_PARTS}", "blobs",
        _blob, _write_blobs,
    ),
}  # fmt: skip
