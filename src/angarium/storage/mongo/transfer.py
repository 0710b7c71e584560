"""A MongoDB database as one end of a copy."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from bson import ObjectId
from pymongo import ReplaceOne, UpdateOne

from angarium.errors import StoreInUse, StoreNotEmpty, StoreUnwritable
from angarium.limits import COPY_BATCH_BYTES, COPY_CALL_S
from angarium.storage.chunks import chunk_digest
from angarium.storage.mongo.blobs import chunk_id
from angarium.storage.mongo.faults import AlreadyThere
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.rows import COLLECTIONS
from angarium.storage.mongo.schema import (
    SHARD_KEYS,
    check_version,
    demand_whole,
    unfinished,
    upgrade,
    version_of,
)
from angarium.storage.transfer import (
    KINDS,
    ChunkRow,
    MessageRow,
    Page,
    Progress,
    Row,
    decode_progress,
    encode_progress,
    row_bytes,
)

_IDENTITY_BITS = 62
_BLOBS_AT_ONCE = 16  # Descriptions looked through for their chunks.


class MongoTransfer:
    """See storage.transfer.Target. Close it.

    Nothing keeps a node from writing to a source: only what holds a lease is seen. A change
    meanwhile is noticed when both ends are compared.
    """

    def __init__(self, uri: str, *, database: str = "angarium") -> None:
        """Raises Misconfigured for a URI that cannot be used."""
        self._link = Link(uri, database, call_s=COPY_CALL_S)
        self._checked = False
        self._run = ObjectId()

    # --- the end that is read ---

    async def rest(self, now_ms: int) -> int:
        await check_version(self._link)
        await demand_whole(self._link)
        held = {"owner": {"$ne": ""}, "until_ms": {"$gt": now_ms}}
        lease = await self._link.find("leases", held)
        if lease is not None:
            raise StoreInUse(
                f"a node holds the lease {lease['_id']}: stop every node; the leases of one "
                "that was killed end within seconds"
            )
        await self._link.insert(
            "meta", {"_id": "identity", "value": secrets.randbits(_IDENTITY_BITS)}
        )
        found = await self._link.find("meta", {"_id": "identity"})
        if found is None:
            raise StoreUnwritable("the store does not show what was written to it")
        return int(found["value"])

    async def read(self, kind: str, after: str, rows_max: int) -> Page:
        if not self._checked:
            await check_version(self._link)
            self._checked = True
        if kind == "chunks":
            return await self._read_chunks(after, rows_max)
        collection = COLLECTIONS[kind]
        wanted = dict(collection.only)
        if after:
            # In one condition, not two joined by $and: not every engine finds its index then.
            limits = wanted.get(collection.order, {})
            wanted[collection.order] = {**limits, "$gt": _place(after)}

        async def work() -> Page:
            cursor = self._link[collection.name].find(wanted, limit=rows_max)
            rows: list[Row] = []
            size, place = 0, after
            async for document in cursor.sort(collection.order, 1):
                rows.append(collection.row(document))
                place = _text(document[collection.order])
                size += row_bytes(rows[-1])
                if size >= COPY_BATCH_BYTES:
                    break
            await cursor.close()
            return Page(rows, place)

        return await self._link.call(work)

    async def _read_chunks(self, after: str, rows_max: int) -> Page:
        """By what the descriptions say: a chunk that none names is a crash's rest."""
        blob, position = json.loads(after) if after else ("", -1)
        rows: list[Row] = []
        size = 0
        while len(rows) < rows_max and size < COPY_BATCH_BYTES:
            found = await self._link.list(
                "blobs", {"_id": {"$gte": blob}}, {"parts": 1},
                sort=[("_id", 1)], documents_max=_BLOBS_AT_ONCE,
            )  # fmt: skip
            parts = [
                (each["_id"], int(at), part["digest"])
                for each in found
                for at, part in each["parts"].items()
            ]
            ahead = sorted(part for part in parts if part[:2] > (blob, position))
            for part in ahead:
                if len(rows) >= rows_max or size >= COPY_BATCH_BYTES:
                    break
                rows.append(await self._chunk(*part))
                size += row_bytes(rows[-1])
                blob, position = part[:2]
            else:
                if len(found) < _BLOBS_AT_ONCE:
                    break
                # All of these are read; what follows sorts after any position of the last.
                blob, position = found[-1]["_id"], 2**31
        return Page(rows, json.dumps((blob, position)))

    async def _chunk(self, blob: str, position: int, digest: str) -> ChunkRow:
        name = chunk_id(blob, position, digest)
        found = await self._link.find("blob_chunks", {"blob": blob, "_id": name})
        content = b"" if found is None else bytes(found["bytes"])
        if chunk_digest(content) != digest:
            raise StoreUnwritable("an attachment has lost its bytes; run `angarium db check`")
        return ChunkRow(blob, position, digest, content)

    # --- the end that is written ---

    async def begin(self, source: int) -> Progress:
        if not await version_of(self._link):
            await upgrade(self._link)
        await check_version(self._link)
        text = await unfinished(self._link)
        if text is not None:
            progress = decode_progress(text)
            if progress.source != source:
                raise StoreNotEmpty("a copy of another store was begun here and not finished")
            await self._take_over(progress)
            return progress
        for kind in KINDS:
            if (await self.read(kind, "", 1)).rows:
                raise StoreNotEmpty(
                    "the store to be filled holds data; choose an empty one, or compare with"
                    " `--check` if it is a copy that was finished"
                )
        progress = Progress(source)
        await self._take_over(progress)
        return progress

    async def _take_over(self, progress: Progress) -> None:
        """From here on no other call that copies may write."""
        fields = {"progress": encode_progress(progress), "run": self._run}
        await self._link.call(
            lambda: self._link["meta"].update_one(
                {"_id": "copying"}, {"$set": fields}, upsert=True
            )
        )

    async def _demand_ours(self) -> None:
        found = await self._link.find("meta", {"_id": "copying"})
        if found is None or found["run"] != self._run:
            raise StoreInUse("the copy was taken over, or finished, by another call")

    async def write(self, kind: str, rows: Sequence[Row], progress: Progress) -> None:
        await self._demand_ours()
        if rows:
            first = progress.of(kind).rows - len(rows) + 1
            if kind == "chunks":
                await self._insert("blob_chunks", [_chunk_document(row) for row in rows])
            else:
                make = COLLECTIONS[kind].document
                documents = [make(n, row) for n, row in enumerate(rows, first)]
                await self._insert(COLLECTIONS[kind].name, documents)
            if kind == "messages":
                await self._raise_heads(rows)
        await self._note(progress)

    async def _insert(self, name: str, documents: list[Document]) -> None:
        """Insert; replace those that an interrupted call has inserted."""
        collection = self._link[name]
        try:
            await self._link.call(lambda: collection.insert_many(documents, ordered=False))
        except AlreadyThere:
            fields = ("_id", *SHARD_KEYS[name])
            changes = [
                ReplaceOne({field: each[field] for field in fields}, each, upsert=True)
                for each in documents
            ]
            try:
                await self._link.call(lambda: collection.bulk_write(changes, ordered=False))
            except AlreadyThere:
                raise StoreNotEmpty("something else has written to the store") from None

    async def _raise_heads(self, rows: Sequence[Row]) -> None:
        heads: dict[str, int] = {}
        for row in rows:
            if isinstance(row, MessageRow):
                heads[row.conversation] = max(heads.get(row.conversation, 0), row.sequence)
        changes = [
            UpdateOne({"_id": name}, {"$max": {"head": head}}) for name, head in heads.items()
        ]
        conversations = self._link["conversations"]
        result = await self._link.call(lambda: conversations.bulk_write(changes, ordered=False))
        if result.matched_count < len(changes):
            raise StoreUnwritable(
                "the source names a conversation that it does not have; "
                "run `angarium db check` there"
            )

    async def _note(self, progress: Progress) -> None:
        place, change = self._ours, {"$set": {"progress": encode_progress(progress)}}
        await self._link.call(lambda: self._link["meta"].update_one(place, change))

    @property
    def _ours(self) -> Document:
        return {"_id": "copying", "run": self._run}

    async def finish(self) -> None:
        await self._demand_ours()
        await self._link.call(lambda: self._link["meta"].delete_one(self._ours))

    async def drop(self) -> None:
        if await unfinished(self._link) is None:
            return
        for name in SHARD_KEYS:
            if name != "meta":
                await self._link.call(lambda name=name: self._link[name].delete_many({}))  # type: ignore[misc]
        await self._link.call(lambda: self._link["meta"].delete_one({"_id": "epoch"}))
        # Last: until then the rest is known as the rest of a copy.
        await self._link.call(lambda: self._link["meta"].delete_one({"_id": "copying"}))

    async def close(self) -> None:
        await self._link.close()


def _chunk_document(row: Row) -> Document:
    assert isinstance(row, ChunkRow)  # noqa: S101
    name = chunk_id(row.blob, row.position, row.digest)
    return {"_id": name, "blob": row.blob, "bytes": row.content}


def _text(value: Any) -> str:
    """A place in the order of a collection, as text."""
    return f"o{value}" if isinstance(value, ObjectId) else json.dumps(value)


def _place(text: str) -> Any:
    return ObjectId(text[1:]) if text.startswith("o") else json.loads(text)
