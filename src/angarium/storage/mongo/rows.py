"""How each kind of row lies in the collections of MongoDB.

A copied document gets an id made of its place in the order of creation: writing it again gives
the same document, and whatever a node creates later sorts after it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from bson import Int64, ObjectId

from angarium.storage.contract import Delivery, Record, Turn
from angarium.storage.mongo.directory import fingerprint
from angarium.storage.mongo.link import Document
from angarium.storage.mongo.work import OPEN_DELIVERY, delivery_of, turn_fields, turn_of
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

_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Collection:
    """`build` makes a row of a document, and `document` the n-th document of a row. Documents
    are read in the order of one field, those that fit `only`."""

    name: str
    build: Callable[[Document], Any]
    document: Callable[[int, Any], Document]
    order: str = "_id"
    only: Document = field(default_factory=dict)

    def row(self, document: Document) -> Any:
        """The row of a document; the driver's own kinds of numbers become plain ones."""
        plain = {
            name: int(value) if isinstance(value, Int64) else value
            for name, value in document.items()
        }
        return self.build(plain)


def place_id(n: int) -> ObjectId:
    """The id of the n-th copied document: as if made in 1970, so before all others."""
    return ObjectId(n.to_bytes(12, "big"))


def _same(row: Any, **renamed: str) -> Document:
    """The fields of a row under their names, or under others."""
    fields = msgspec.structs.asdict(row)
    return {renamed.get(name, name): value for name, value in fields.items()}


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _conversation(d: Document) -> ConversationRow:
    pairs = tuple((each["user"], each["role"]) for each in d["participants"])
    return ConversationRow(d["_id"], d["epoch"], d["floor"], d["created_ms"], pairs)


def _conversation_document(_: int, row: ConversationRow) -> Document:
    return {
        "_id": row.name,
        "epoch": row.epoch,
        "floor": row.floor,
        "head": 0,  # Raised with the messages.
        "created_ms": row.created_ms,
        "participants": [{"user": user, "role": role} for user, role in row.participants],
    }


def _message(d: Document) -> MessageRow:
    return MessageRow(
        d["c"], d["seq"], d["from"], d["dev"], d["key"], d["cs"], d["kind"], d["at"],
        d["hash"], d["to"], d["purged_ms"],
    )  # fmt: skip


def _message_document(n: int, row: MessageRow) -> Document:
    return {
        "_id": place_id(n), "c": row.conversation, "seq": row.sequence, "dev": row.device,
        "from": row.sender, "key": row.key, "cs": row.cs, "kind": row.kind,
        "at": row.accepted_ms, "hash": row.digest, "to": dict(row.to),
        "purged_ms": row.purged_ms,
    }  # fmt: skip


def _receipt(d: Document) -> ReceiptRow:
    return ReceiptRow(d["conversation"], d["user"], d.get("delivered", 0), d.get("read", 0))


def _receipt_document(n: int, row: ReceiptRow) -> Document:
    fields = {name: value for name, value in _same(row).items() if value != 0}
    return {"_id": place_id(n), **fields}


def _device_list(d: Document) -> DeviceListRow:
    return DeviceListRow(d["_id"], d["version"], d.get("master"), d.get("self_signing"))


def _device_list_document(_: int, row: DeviceListRow) -> Document:
    fields = _same(row, user="_id")
    return {name: value for name, value in fields.items() if value is not None}


def _device(d: Document) -> DeviceRow:
    return DeviceRow(
        d["_id"], d["user"], d["kind"], d["keys"], bool(d["signed"]), d["created_ms"]
    )


def _device_document(n: int, row: DeviceRow) -> Document:
    known = None if row.keys is None else fingerprint(_decode(row.keys))
    return {
        **_same(row, device="_id"), "fingerprint": known, "leaving": False,
        "made": place_id(n),
    }  # fmt: skip


def _one_time_key(d: Document) -> PrekeyRow:
    return PrekeyRow(d["device"], d["key_id"], d["key"])


def _one_time_key_document(n: int, row: PrekeyRow) -> Document:
    return {"_id": place_id(n), "made": place_id(n), **_same(row)}


def _record(d: Document) -> Record:
    return Record(d["scope"], d["key"], d["rev"], d["blob"])


def _turn_document(n: int, row: Turn) -> Document:
    made = place_id(n)
    return {"_id": made, **turn_fields(row), "made": made}


def _delivery_document(n: int, row: Delivery) -> Document:
    fields = {"_id": row.id, **asdict(row)}
    del fields["id"]
    return {**fields, "open": row.state in OPEN_DELIVERY, "made": place_id(n)}


def _lease(d: Document) -> LeaseRow:
    return LeaseRow(d["_id"], d["owner"], d["epoch"], d["until_ms"])


def _webhook(d: Document) -> WebhookRow:
    return WebhookRow(
        d["_id"], d["channel"], d["event"], d["raw"], d["received_ms"], d["attempts"],
        d["state"], d["outcome"],
    )  # fmt: skip


def _webhook_document(_: int, row: WebhookRow) -> Document:
    finished = {"finished_at": _moment(row.received_ms)} if row.state == "done" else {}
    return {**_same(row, id="_id"), **finished}


def _audit(d: Document) -> AuditRow:
    return AuditRow(
        d["_id"], d["at_ms"], d["principal"], d["action"], d["target"], d["outcome"],
        d["detail"],
    )  # fmt: skip


def _command(d: Document) -> CommandRow:
    stage, _, key = d["_id"].partition("\n")
    return CommandRow(stage, key, d["answer"], d["created_ms"])


def _command_document(_: int, row: CommandRow) -> Document:
    return {
        "_id": f"{row.stage}\n{row.key}", "answer": row.answer, "created_ms": row.created_ms,
        "stored_at": _moment(row.created_ms),
    }  # fmt: skip


def _blob(d: Document) -> BlobRow:
    parts = sorted(
        (int(at), int(part["size"]), part["digest"]) for at, part in d["parts"].items()
    )
    return BlobRow(
        d["_id"], d["owner"], d["conversation"], d["size"], d["chunks"], d["created_ms"],
        d["expires_ms"], tuple(parts),
    )  # fmt: skip


def _blob_document(_: int, row: BlobRow) -> Document:
    return {
        **_same(row, id="_id"),
        "parts": {str(at): {"size": size, "digest": digest} for at, size, digest in row.parts},
        "taken": sum(size for _, size, _ in row.parts),
        "complete": len(row.parts) == row.chunks,
    }


COLLECTIONS: Mapping[str, Collection] = {
    "epoch": Collection(
        "meta", lambda d: Epoch(d["value"]),
        lambda _, row: {"_id": "epoch", "value": row.value}, only={"_id": {"$in": ["epoch"]}},
    ),
    "conversations": Collection("conversations", _conversation, _conversation_document),
    "messages": Collection("messages", _message, _message_document),
    "receipts": Collection("receipts", _receipt, _receipt_document),
    "device_lists": Collection("device_lists", _device_list, _device_list_document),
    "devices": Collection("devices", _device, _device_document, order="made"),
    # Both ids of a key are made together, so this is the order in which keys are taken.
    "one_time_keys": Collection("one_time_keys", _one_time_key, _one_time_key_document),
    "fallback_keys": Collection(
        "fallback_keys", lambda d: PrekeyRow(d["_id"], d["key_id"], d["key"]),
        lambda _, row: _same(row, device="_id"),
    ),
    "records": Collection(
        "records", _record, lambda n, row: {"_id": place_id(n), **asdict(row)},
        only={"dropped_at": None},  # The trace of a dropped record is none.
    ),
    "turns": Collection("turns", turn_of, _turn_document, order="made"),
    "deliveries": Collection("deliveries", delivery_of, _delivery_document, order="made"),
    "leases": Collection("leases", _lease, lambda _, row: _same(row, name="_id")),
    "webhooks": Collection("webhooks", _webhook, _webhook_document),
    "audit": Collection("audit", _audit, lambda _, row: _same(row, id="_id")),
    "commands": Collection("commands", _command, _command_document),
    "blobs": Collection("blobs", _blob, _blob_document),
}  # fmt: skip
"""Without the chunks, which are read by what their attachments say: see transfer.py."""
