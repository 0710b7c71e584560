"""Files: sealed by chunks on the way up, opened and checked on the way down; both resume."""

import asyncio
import hashlib
import mimetypes
import os
import secrets
import uuid
from pathlib import Path

from angarium.e2ee.attachments import FileOpener, Read, SealedFile
from angarium.e2ee.body import FileRef
from angarium.errors import Misconfigured, SealBroken, TooLarge
from angarium.ids import ConversationId, RandomBytes
from angarium.limits import BLOB_CHUNK_BYTES, FILE_READ_BYTES_MAX
from angarium.sdk.api import Api


async def upload(
    api: Api,
    conversation: ConversationId,
    path: Path,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> FileRef:
    """Seal and store the file; returns what a message carries of it.

    Raises TooLarge, Misconfigured when the file cannot be read, and what the API raises.
    """
    try:
        size = os.stat(path).st_size
        blob = str(uuid.UUID(bytes=random_bytes(16), version=4))
        plan = SealedFile.plan(conversation, blob, size, random_bytes)
        with path.open("rb") as source:
            descriptor = source.fileno()
            digest = await _upload_chunks(
                api, plan, lambda offset, wanted: os.pread(descriptor, wanted, offset)
            )
    except OSError as error:
        raise Misconfigured(f"{path.name} cannot be read: {error.strerror}") from None
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return plan.reference(digest, path.name, content_type)


async def store(api: Api, plan: SealedFile, data: bytes) -> bytes:
    """Store a file held in memory as planned; returns the SHA-256 of its ciphertext. The same
    plan and data again change nothing. Raises what the API raises."""
    return await _upload_chunks(
        api, plan, lambda offset, wanted: data[offset : offset + wanted]
    )


async def _upload_chunks(api: Api, plan: SealedFile, read: Read) -> bytes:
    """Chunks that the server has already are sealed for the hash only."""
    opened = await api.open_blob(
        {
            "id": plan.blob,
            "conversation": plan.conversation,
            "size": plan.ciphertext_bytes,
            "chunks": plan.chunks,
        }
    )
    stored = set(opened.get("stored", ()))
    digest = hashlib.sha256()
    for index in range(plan.chunks):
        chunk = await asyncio.to_thread(plan.seal_chunk, index, read)
        digest.update(chunk)
        if index not in stored:
            await api.put_chunk(plan.blob, index, chunk)
    return digest.digest()


async def save(api: Api, conversation: ConversationId, file: FileRef, target: Path) -> Path:
    """Fetch the file to `target` (a folder: under its own name, made safe). A download that was
    cut off goes on where it ended. Returns where it is.

    Raises SealBroken (nothing is left at `target`), NotFound, Malformed, Misconfigured, and
    what the API raises.
    """
    opener = FileOpener(conversation, file)
    if os.path.isdir(target):  # noqa: ASYNC240
        target = target / safe_name(file.name)
    fetched = target.with_name(f"{target.name}.{safe_name(file.blob)[-12:]}.part")
    opened = fetched.with_suffix(".open")
    try:
        await _fetch(api, file, fetched)
        await asyncio.to_thread(_open_all, opener, fetched, opened)
        os.replace(opened, target)
    except OSError as error:
        raise Misconfigured(f"{target.name} cannot be written: {error.strerror}") from None
    except SealBroken:
        # What was fetched is wrong: go on from nothing next time.
        fetched.unlink(missing_ok=True)
        raise
    finally:
        opened.unlink(missing_ok=True)
    fetched.unlink(missing_ok=True)
    return target


async def read(api: Api, conversation: ConversationId, file: FileRef) -> bytes:
    """The file's bytes, opened and checked, for a program that wants them in memory.

    Raises TooLarge above FILE_READ_BYTES_MAX, SealBroken, NotFound, and what the API raises.
    """
    if file.size > FILE_READ_BYTES_MAX:
        raise TooLarge(f"a file read into memory has at most {FILE_READ_BYTES_MAX} bytes")
    opener = FileOpener(conversation, file)
    chunks = [await api.read_chunk(file.blob, index) for index in range(file.chunks)]
    return b"".join(opener.open(iter(chunks)))


async def _fetch(api: Api, file: FileRef, fetched: Path) -> None:
    """Append the chunks that are missing; a torn last one is fetched again."""
    with fetched.open("ab") as sink:
        whole = sink.tell() // BLOB_CHUNK_BYTES
        sink.truncate(whole * BLOB_CHUNK_BYTES)
        for index in range(whole, file.chunks):
            chunk = await api.read_chunk(file.blob, index)
            if index < file.chunks - 1 and len(chunk) != BLOB_CHUNK_BYTES:
                raise SealBroken("a chunk of the attachment has another length")
            sink.write(chunk)


def _open_all(opener: FileOpener, fetched: Path, opened: Path) -> None:
    with fetched.open("rb") as source, opened.open("wb") as sink:
        for plain in opener.open(iter(lambda: source.read(BLOB_CHUNK_BYTES), b"")):
            sink.write(plain)
        sink.flush()
        os.fsync(sink.fileno())


def safe_name(name: str) -> str:
    """The last part of a name somebody else chose, without what a file system minds."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    cleaned = "".join(c for c in last if c.isprintable() and c not in ':*?"<>|').lstrip(".")
    return cleaned[:120] or "attachment"
