"""Attachments: their description in SQLite, their ciphertext in chunks.

A chunk is made durable before its row; so a row always has its bytes, and a crash in between
leaves only an unnamed file, which `check` reports.
"""

import sqlite3
from dataclasses import dataclass

from angarium.errors import Forbidden, Malformed, NotFound, Refused, TooLarge
from angarium.limits import (
    BLOB_BYTES_COUNTED_MIN,
    BLOB_BYTES_MAX,
    BLOB_BYTES_PER_USER_MAX,
    BLOB_CHUNK_BYTES,
    BLOB_UPLOAD_OPEN_S,
    BLOBS_OPEN_PER_USER_MAX,
)
from angarium.storage.chunks import Chunks, chunk_digest, chunk_name
from angarium.storage.contract import Blob
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane


@dataclass(frozen=True, slots=True)
class FileBlobs:
    """See storage.contract.Blobs."""

    commits: Commits
    reads: Lane
    chunks: Chunks

    async def open(self, blob: Blob) -> Blob:
        if blob.size > BLOB_BYTES_MAX:
            raise TooLarge(f"an attachment has at most {BLOB_BYTES_MAX} bytes")
        if not 0 <= blob.chunks <= blob.size <= blob.chunks * BLOB_CHUNK_BYTES:
            raise Malformed("the number of chunks does not fit the size")

        def work(connection: sqlite3.Connection) -> Blob:
            earlier = _find(connection, blob.id)
            if earlier is not None:
                if earlier.owner != blob.owner:
                    raise Forbidden("this attachment is another owner's")
                return earlier
            _check_room(connection, blob)
            connection.execute(
                "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (blob.id, blob.owner, blob.conversation, blob.size, blob.chunks,
                 blob.created_ms, blob.expires_ms),
            )  # fmt: skip
            return _get(connection, blob.id)

        return await self.commits.write(work)

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> Blob:
        if len(chunk) > BLOB_CHUNK_BYTES:
            raise TooLarge(f"a chunk has at most {BLOB_CHUNK_BYTES} bytes")
        digest = chunk_digest(chunk)
        if await self.reads.read(lambda c: _check_chunk(c, blob, index, len(chunk), digest)):
            return await self.reads.read(lambda connection: _get(connection, blob))
        name = chunk_name(blob, index, digest)
        await self.chunks.put(name, chunk)

        def work(connection: sqlite3.Connection) -> Blob:
            if not _check_chunk(connection, blob, index, len(chunk), digest):
                connection.execute(
                    "INSERT INTO blob_chunks (blob, position, size, digest)"
                    " VALUES (?, ?, ?, ?)",
                    (blob, index, len(chunk), digest),
                )
            return _get(connection, blob)

        try:
            return await self.commits.write(work)
        except (NotFound, Malformed):
            # Dropped, or filled by another upload, while these bytes were written.
            await self.chunks.drop(name)
            raise

    async def find(self, blob: str) -> Blob | None:
        return await self.reads.read(lambda connection: _find(connection, blob))

    async def read_chunk(self, blob: str, index: int) -> bytes:
        def work(connection: sqlite3.Connection) -> str:
            row = connection.execute(
                "SELECT digest FROM blob_chunks WHERE blob = ? AND position = ?", (blob, index)
            ).fetchone()
            if row is None:
                raise NotFound("no such chunk")
            return str(row[0])

        digest = await self.reads.read(work)
        return await self.chunks.get(chunk_name(blob, index, digest))

    async def drop(self, blob: str) -> None:
        def work(connection: sqlite3.Connection) -> list[str]:
            return _remove(connection, [blob])

        for name in await self.commits.write(work):
            await self.chunks.drop(name)

    async def expire(self, now_ms: int) -> int:
        def work(connection: sqlite3.Connection) -> tuple[int, list[str]]:
            expired = [
                row[0]
                for row in connection.execute(
                    "SELECT id FROM blobs WHERE expires_ms <= ? OR (created_ms <= ?"
                    " AND chunks > (SELECT count(*) FROM blob_chunks WHERE blob = blobs.id))",
                    (now_ms, now_ms - BLOB_UPLOAD_OPEN_S * 1000),
                ).fetchall()
            ]
            return len(expired), _remove(connection, expired)

        count, names = await self.commits.write(work)
        for name in names:
            await self.chunks.drop(name)
        return count


def _find(connection: sqlite3.Connection, blob: str) -> Blob | None:
    row = connection.execute(
        "SELECT owner, conversation, size, chunks, created_ms, expires_ms FROM blobs"
        " WHERE id = ?",
        (blob,),
    ).fetchone()
    if row is None:
        return None
    stored = tuple(
        position
        for (position,) in connection.execute(
            "SELECT position FROM blob_chunks WHERE blob = ? ORDER BY position", (blob,)
        )
    )
    owner, conversation, size, chunks, created_ms, expires_ms = row
    return Blob(
        id=blob,
        owner=owner,
        conversation=conversation,
        size=size,
        chunks=chunks,
        stored=stored,
        complete=len(stored) == chunks,
        created_ms=created_ms,
        expires_ms=expires_ms,
    )


def _check_room(connection: sqlite3.Connection, blob: Blob) -> None:
    """Raises Refused when the owner has too much already."""
    least = BLOB_BYTES_COUNTED_MIN
    held_bytes, unfinished = connection.execute(
        "SELECT coalesce(sum(max(size, ?)), 0), coalesce(sum("
        "chunks > (SELECT count(*) FROM blob_chunks WHERE blob = blobs.id)), 0)"
        " FROM blobs WHERE owner = ? AND expires_ms > ?",
        (least, blob.owner, blob.created_ms),
    ).fetchone()
    if unfinished >= BLOBS_OPEN_PER_USER_MAX:
        raise Refused(f"at most {BLOBS_OPEN_PER_USER_MAX} uploads at once; finish one first")
    if held_bytes + max(blob.size, least) > BLOB_BYTES_PER_USER_MAX:
        raise Refused("your attachments are too large together; older ones expire")


def _get(connection: sqlite3.Connection, blob: str) -> Blob:
    found = _find(connection, blob)
    if found is None:
        raise NotFound("no such attachment")
    return found


def _check_chunk(
    connection: sqlite3.Connection, blob: str, index: int, size: int, digest: str
) -> bool:
    """Whether this chunk is stored already. Raises NotFound and Malformed."""
    described = _get(connection, blob)
    if not 0 <= index < described.chunks:
        raise Malformed("no such chunk")
    row = connection.execute(
        "SELECT digest FROM blob_chunks WHERE blob = ? AND position = ?", (blob, index)
    ).fetchone()
    if row is not None:
        if row[0] != digest:
            raise Malformed("this chunk is stored with other bytes")
        return True
    taken = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM blob_chunks WHERE blob = ?", (blob,)
    ).fetchone()[0]
    missing = described.chunks - len(described.stored) - 1
    left = described.size - taken - size
    if size == 0 or not missing <= left <= missing * BLOB_CHUNK_BYTES:
        raise Malformed("the chunk has a wrong length")
    return False


def _remove(connection: sqlite3.Connection, blobs: list[str]) -> list[str]:
    """Forget attachments; returns the names of the chunks that are to be dropped."""
    names: list[str] = []
    for blob in blobs:
        rows = connection.execute(
            "DELETE FROM blob_chunks WHERE blob = ? RETURNING position, digest", (blob,)
        ).fetchall()
        names += [chunk_name(blob, position, digest) for position, digest in rows]
        connection.execute("DELETE FROM blobs WHERE id = ?", (blob,))
    return names
