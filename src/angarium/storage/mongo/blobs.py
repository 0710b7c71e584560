"""Attachments over MongoDB: a description, and each chunk as a document of its own.

A chunk's id holds the hash of its bytes and is durable before the description names it. The
description is changed by compare and set over what it says is stored, so two uploads at once
never add up to a wrong size. A crash in between leaves an unnamed chunk, dropped with its blob.
"""

import asyncio
from dataclasses import dataclass

from angarium.errors import Forbidden, Malformed, NotFound, TooLarge, Unavailable
from angarium.limits import (
    APPEND_ATTEMPTS,
    BLOB_BYTES_MAX,
    BLOB_CHUNK_BYTES,
    BLOB_UPLOAD_OPEN_S,
    MONGO_RACE_S,
)
from angarium.storage.chunks import chunk_digest
from angarium.storage.contract import Blob
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.room import Room


@dataclass(frozen=True, slots=True)
class MongoBlobs:
    """See storage.contract.Blobs. What one owner holds is bounded by `room`."""

    link: Link
    room: Room

    async def open(self, blob: Blob) -> Blob:
        if blob.size > BLOB_BYTES_MAX:
            raise TooLarge(f"an attachment has at most {BLOB_BYTES_MAX} bytes")
        if not 0 <= blob.chunks <= blob.size <= blob.chunks * BLOB_CHUNK_BYTES:
            raise Malformed("the number of chunks does not fit the size")
        earlier = await self.find(blob.id)
        if earlier is None:
            reservation = await self.room.reserve(blob)
            # Without an answer the reservation stays: the insert may still land.
            await self.link.insert("blobs", _document(blob))
            await self.room.settle(blob.owner, reservation)
            earlier = _blob(await self._get(blob.id))
        if earlier.owner != blob.owner:
            raise Forbidden("this attachment is another owner's")
        return earlier

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> Blob:
        if len(chunk) > BLOB_CHUNK_BYTES:
            raise TooLarge(f"a chunk has at most {BLOB_CHUNK_BYTES} bytes")
        digest = chunk_digest(chunk)
        name = chunk_id(blob, index, digest)
        found = await self._get(blob)
        if _is_stored(found, index, len(chunk), digest):
            return _blob(found)
        await self.link.insert("blob_chunks", {"_id": name, "blob": blob, "bytes": chunk})
        try:
            return await self._describe(blob, index, len(chunk), digest)
        except (NotFound, Malformed):
            # Dropped, or filled by another upload, while these bytes were written.
            await self.link.call(
                lambda: self.link["blob_chunks"].delete_one({"blob": blob, "_id": name})
            )
            raise

    async def find(self, blob: str) -> Blob | None:
        found = await self.link.find("blobs", {"_id": blob})
        return None if found is None else _blob(found)

    async def read_chunk(self, blob: str, index: int) -> bytes:
        found = await self.link.find("blobs", {"_id": blob}, {"parts": 1})
        part = found["parts"].get(str(index)) if found else None
        if part is None:
            raise NotFound("no such chunk")
        name = chunk_id(blob, index, part["digest"])
        chunk = await self.link.find("blob_chunks", {"blob": blob, "_id": name})
        if chunk is None:
            raise NotFound("no such chunk")
        return bytes(chunk["bytes"])

    async def drop(self, blob: str) -> None:
        # The description first: what is left after a crash is not found by anybody.
        await self.link.call(lambda: self.link["blobs"].delete_one({"_id": blob}))
        await self.link.call(lambda: self.link["blob_chunks"].delete_many({"blob": blob}))

    async def expire(self, now_ms: int) -> int:
        oldest_ms = now_ms - BLOB_UPLOAD_OPEN_S * 1000
        expired = await self.link.list(
            "blobs",
            {
                "$or": [
                    {"expires_ms": {"$lte": now_ms}},
                    {"complete": False, "created_ms": {"$lte": oldest_ms}},
                ]
            },
            {"_id": 1},
        )
        for each in expired:
            await self.drop(each["_id"])
        return len(expired)

    async def _get(self, blob: str) -> Document:
        found = await self.link.find("blobs", {"_id": blob})
        if found is None:
            raise NotFound("no such attachment")
        return found

    async def _describe(self, blob: str, index: int, size: int, digest: str) -> Blob:
        for attempt in range(APPEND_ATTEMPTS):
            found = await self._get(blob)
            if _is_stored(found, index, size, digest):
                return _blob(found)
            part, taken = f"parts.{index}", found["taken"]
            full = len(found["parts"]) + 1 == found["chunks"]
            change = {
                part: {"size": size, "digest": digest}, "taken": taken + size, "complete": full,
            }  # fmt: skip
            await self.link.call(
                lambda part=part, taken=taken, change=change: self.link["blobs"].update_one(  # type: ignore[misc]
                    {"_id": blob, "taken": taken, part: {"$exists": False}}, {"$set": change}
                )
            )
            await asyncio.sleep(MONGO_RACE_S * attempt * self.link.jitter())
        raise Unavailable("too many uploads of one attachment", after_ms=200)


def chunk_id(blob: str, index: int, digest: str) -> str:
    """The id of a chunk's document."""
    return f"{blob}/{index}/{digest}"


def _document(blob: Blob) -> Document:
    return {
        "_id": blob.id, "owner": blob.owner, "conversation": blob.conversation,
        "size": blob.size, "chunks": blob.chunks, "created_ms": blob.created_ms,
        "expires_ms": blob.expires_ms, "parts": {}, "taken": 0, "complete": blob.chunks == 0,
    }  # fmt: skip


def _blob(found: Document) -> Blob:
    return Blob(
        id=found["_id"],
        owner=found["owner"],
        conversation=found["conversation"],
        size=found["size"],
        chunks=found["chunks"],
        stored=tuple(sorted(int(position) for position in found["parts"])),
        complete=found["complete"],
        created_ms=found["created_ms"],
        expires_ms=found["expires_ms"],
    )


def _is_stored(found: Document, index: int, size: int, digest: str) -> bool:
    """Whether this chunk is stored already. Raises Malformed."""
    if not 0 <= index < found["chunks"]:
        raise Malformed("no such chunk")
    part = found["parts"].get(str(index))
    if part is not None:
        if part["digest"] != digest:
            raise Malformed("this chunk is stored with other bytes")
        return True
    missing = found["chunks"] - len(found["parts"]) - 1
    left = found["size"] - found["taken"] - size
    if size == 0 or not missing <= left <= missing * BLOB_CHUNK_BYTES:
        raise Malformed("the chunk has a wrong length")
    return False
