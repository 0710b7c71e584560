"""Where the ciphertext of attachments lies: files in a folder, or a dict for tests.

A chunk's name holds the hash of its bytes. So a file never changes once it is there, two
uploads of one chunk never overwrite each other, and damage is found without another record.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from angarium.errors import NotFound
from angarium.storage.files import translate_os, write_durably

T = TypeVar("T")
_FILE_THREADS = 2


def chunk_digest(chunk: bytes) -> str:
    """The hash that names a chunk's bytes."""
    return hashlib.sha256(chunk).hexdigest()[:32]


def chunk_name(blob: str, position: int, digest: str) -> str:
    """A path relative to the chunk folder; safe whatever the blob's id is."""
    owner = hashlib.sha256(blob.encode()).hexdigest()[:32]
    return f"{owner[:2]}/{owner}.{position}.{digest}"


class Chunks(Protocol):
    """Named bytes, written once. Raises DiskFull and StoreUnwritable."""

    async def put(self, name: str, chunk: bytes) -> None:
        """Durable when it returns."""
        ...

    async def get(self, name: str) -> bytes:
        """Raises NotFound."""
        ...

    async def drop(self, name: str) -> None:
        """A no-op when absent."""
        ...

    def close(self) -> None: ...


class ChunkMemory:
    """Chunks that live as long as the process."""

    def __init__(self) -> None:
        self._chunks: dict[str, bytes] = {}

    async def put(self, name: str, chunk: bytes) -> None:
        self._chunks[name] = bytes(chunk)

    async def get(self, name: str) -> bytes:
        if name not in self._chunks:
            raise NotFound("no such chunk")
        return self._chunks[name]

    async def drop(self, name: str) -> None:
        self._chunks.pop(name, None)

    def close(self) -> None:
        return


class ChunkFolder:
    """Chunks as files: written beside, synced, then renamed."""

    def __init__(self, folder: Path, *, inline: bool = False) -> None:
        self._folder = folder
        self._executor = None if inline else ThreadPoolExecutor(_FILE_THREADS, "angarium-blobs")

    async def put(self, name: str, chunk: bytes) -> None:
        await self._run(lambda: write_durably(self._folder / name, chunk))

    async def get(self, name: str) -> bytes:
        try:
            return await self._run((self._folder / name).read_bytes)
        except FileNotFoundError:
            raise NotFound("no such chunk") from None

    async def drop(self, name: str) -> None:
        await self._run(lambda: (self._folder / name).unlink(missing_ok=True))

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            if self._executor is None:
                return work()
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise translate_os(error) from None


def stored_names(folder: Path) -> Iterator[str]:
    """The names of all chunks below a folder, unfinished files left out."""
    for path in sorted(folder.glob("??/*")):
        if path.suffix != ".tmp":
            yield f"{path.parent.name}/{path.name}"
