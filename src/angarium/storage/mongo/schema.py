"""Collections, indexes, validation and shard keys; created idempotently by `migrate`.

A unique index of a sharded collection must begin with the whole shard key; `SHARD_KEYS` says
which key each collection is sharded by, and a test holds every index to it. TTL indexes only
clean up: whoever reads checks the age.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pymongo import IndexModel
from pymongo.errors import CollectionInvalid, OperationFailure

from angarium.errors import SchemaMismatch, UnfinishedCopy
from angarium.limits import (
    COMMAND_KEY_KEPT_S,
    MONGO_MIGRATE_CALL_S,
    MONGO_TRACE_KEPT_S,
    WEBHOOK_KEPT_S,
)
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.sharding import shard

SCHEMA_VERSION = 1

SHARD_KEYS: Mapping[str, tuple[str, ...]] = {
    "messages": ("c",),
    "conversations": ("_id",),
    "receipts": ("conversation",),
    "devices": ("_id",),
    "device_lists": ("_id",),
    "one_time_keys": ("device",),
    "fallback_keys": ("_id",),
    "records": ("scope",),
    "turns": ("conversation",),
    "deliveries": ("_id",),
    "leases": ("_id",),
    "webhooks": ("channel", "event"),
    "audit": ("_id",),
    "commands": ("_id",),
    "blobs": ("_id",),
    "blob_owners": ("_id",),
    "blob_chunks": ("blob",),
    "journals": ("_id",),
    "meta": ("_id",),
}


@dataclass(frozen=True, slots=True)
class Index:
    """Ascending over `fields`; `only` restricts it, `ttl_s` drops what is older."""

    fields: tuple[str, ...]
    unique: bool = False
    only: Mapping[str, Any] | None = None
    ttl_s: int | None = None

    @property
    def name(self) -> str:
        return "by_" + "_".join(field.replace(".", "_") for field in self.fields)

    def model(self) -> IndexModel:
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.only is not None:
            options["partialFilterExpression"] = dict(self.only)
        if self.ttl_s is not None:
            options["expireAfterSeconds"] = self.ttl_s
        return IndexModel([(field, 1) for field in self.fields], **options)


_OPEN = {"open": True}

INDEXES: Mapping[str, tuple[Index, ...]] = {
    "messages": (
        Index(("c", "seq"), unique=True),
        Index(("c", "dev", "key"), unique=True),
        Index(("c", "dev", "cs"), unique=True),
    ),
    "conversations": (Index(("participants.user", "created_ms")),),
    "receipts": (Index(("conversation", "user"), unique=True),),
    "devices": (Index(("user",)), Index(("made",))),
    "one_time_keys": (
        Index(("device", "key_id"), unique=True),
        Index(("device", "made")),
    ),
    "records": (
        Index(("scope", "key"), unique=True),
        Index(("dropped_at",), ttl_s=MONGO_TRACE_KEPT_S),
    ),
    "turns": (
        Index(("conversation", "sequence"), unique=True),
        Index(("owner", "conversation", "sequence"), only=_OPEN),
        Index(("state", "made")),
        Index(("made",)),
    ),
    "deliveries": (
        Index(("channel", "contact", "order", "made"), only=_OPEN),
        Index(("channel", "provider_id"), only={"provider_id": {"$gt": ""}}),
        Index(("contact", "order", "made")),
        Index(("made",)),
    ),
    "webhooks": (
        Index(("channel", "event"), unique=True),
        Index(("state", "channel", "_id")),
        Index(("finished_at",), ttl_s=WEBHOOK_KEPT_S),
    ),
    "commands": (Index(("stored_at",), ttl_s=COMMAND_KEY_KEPT_S),),
    "blobs": (
        Index(("expires_ms",)),
        Index(("complete", "created_ms")),
        Index(("owner", "expires_ms")),
    ),
    "blob_chunks": (Index(("blob",)),),
}

_NUMBER = {"bsonType": ["int", "long"]}
_COUNT = {"bsonType": ["int", "long"], "minimum": 1}
_TEXT = {"bsonType": "string"}
_BYTES = {"bsonType": "binData"}
_FLAG = {"bsonType": "bool"}

VALIDATION: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "messages": {
        "c": _TEXT, "seq": _COUNT, "dev": _TEXT, "from": _TEXT, "key": _TEXT, "cs": _COUNT,
        "kind": _TEXT, "at": _NUMBER, "hash": _BYTES, "to": {"bsonType": "object"},
        "purged_ms": _NUMBER,
    },
    "conversations": {
        "epoch": _COUNT, "floor": _COUNT, "head": _NUMBER, "created_ms": _NUMBER,
        "participants": {"bsonType": "array"},
    },
    "records": {"scope": _TEXT, "key": _TEXT, "rev": _COUNT, "blob": _BYTES},
    "turns": {"conversation": _TEXT, "sequence": _COUNT, "state": _TEXT, "open": _FLAG},
    "deliveries": {"channel": _TEXT, "contact": _TEXT, "state": _TEXT, "open": _FLAG},
    "leases": {"owner": _TEXT, "epoch": _COUNT, "until_ms": _NUMBER},
}  # fmt: skip
"""Required fields and their types: a fault of ours is refused by the server, not stored."""


def _validator(fields: Mapping[str, Mapping[str, Any]]) -> Document:
    properties = {name: dict(kind) for name, kind in fields.items()}
    shape = {"bsonType": "object", "required": list(fields), "properties": properties}
    return {"$jsonSchema": shape}


async def version_of(link: Link) -> int:
    """The store's schema version; 0 when it has none yet."""
    found = await link.find("meta", {"_id": "schema"})
    return int(found["version"]) if found else 0


async def check_version(link: Link) -> None:
    """Raises SchemaMismatch, saying what to do, unless the store has exactly our version."""
    version = await version_of(link)
    if version < SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the store has schema {version}, this program needs {SCHEMA_VERSION}: "
            "run `angarium db migrate`"
        )
    if version > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the store has schema {version}, this program knows {SCHEMA_VERSION}: "
            "install the newer Angarium"
        )


def indexes_of(collection: str, guards: Guards = ALL_GUARDS) -> list[Index]:
    """The collection's indexes; those that are a guard are unique while it stands."""
    stands = {
        "by_c_seq": guards.unique_sequence,
        "by_c_dev_key": guards.unique_key,
        "by_c_dev_cs": guards.unique_counter,
    }
    found = INDEXES.get(collection, ())
    if collection != "messages":
        return list(found)
    return [replace(index, unique=stands[index.name]) for index in found]


async def unfinished(link: Link) -> str | None:
    """How far a copy into this store is; None when none is under way."""
    found = await link.find("meta", {"_id": "copying"})
    return None if found is None else str(found["progress"])


async def demand_whole(link: Link) -> None:
    """Raises UnfinishedCopy when a copy into this store has begun and is not done."""
    if await unfinished(link) is not None:
        raise UnfinishedCopy(
            "the store is a copy that is not done: run the same `angarium db copy` again, "
            "or with `--restart` to begin anew"
        )


async def upgrade(link: Link, guards: Guards = ALL_GUARDS) -> tuple[int, int]:
    """Create what is missing; returns the versions before and after. Safe to repeat, and safe
    from several nodes at once. Raises SchemaMismatch when the store is newer or an index of
    ours exists with other options, or a collection is sharded by another key."""
    before = await version_of(link)
    if before > SCHEMA_VERSION:
        await check_version(link)
    there = set(await link.call(link.database.list_collection_names))
    for name in SHARD_KEYS:
        await _prepare(link, name, indexes_of(name, guards), exists=name in there)
    await shard(link, SHARD_KEYS)
    # Last: a store that names the version has all of it.
    await link.call(
        lambda: link["meta"].update_one(
            {"_id": "schema"}, {"$max": {"version": SCHEMA_VERSION}}, upsert=True
        )
    )
    return before, SCHEMA_VERSION


async def _prepare(link: Link, name: str, indexes: list[Index], *, exists: bool) -> None:
    fields = VALIDATION.get(name)
    options: Document = {"validator": _validator(fields)} if fields else {}

    async def create() -> None:
        try:
            await link.database.create_collection(name, check_exists=False, **options)
        except CollectionInvalid:
            return
        except OperationFailure as error:
            if error.code != 48:  # NamespaceExists: another node was faster.
                raise

    if not exists and (options or not indexes):
        await link.call(create)
    elif options:
        await link.call(lambda: link.database.command("collMod", name, **options))
    models = [index.model() for index in indexes]
    if models:
        await link.call(lambda: link[name].create_indexes(models))


async def migrate(uri: str, *, database: str = "angarium") -> tuple[int, int]:
    """Bring the database at `uri` to our schema; returns the versions before and after.

    Raises Misconfigured, SchemaMismatch, StoreUnwritable or Unavailable.
    """
    link = Link(uri, database, call_s=MONGO_MIGRATE_CALL_S)
    try:
        return await upgrade(link)
    finally:
        await link.close()
