"""Files up and down over the real blob store; both ways resume."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from angarium.errors import Misconfigured, SealBroken, Unavailable
from angarium.ids import ConversationId, UserId
from angarium.limits import BLOB_CHUNK_BYTES
from angarium.sdk.attachments import safe_name, save, upload
from angarium.storage.contract import Blob, Blobs
from angarium.storage.sqlite.store import open_sqlite

from .relay_in_memory import CLOCK

C = ConversationId("019a1b2c-0000-7000-8000-000000000001")


class BlobApi:
    """Blob calls straight to the store; `reads_left` cuts a download off."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.puts = 0
        self.reads = 0
        self.reads_left = 1_000_000
        self.flip = False

    async def open_blob(self, blob: Mapping[str, Any]) -> dict[str, Any]:
        made = Blob(
            id=blob["id"],
            owner=UserId("@ann:test"),
            conversation=blob["conversation"],
            size=blob["size"],
            chunks=blob["chunks"],
            stored=(),
            complete=False,
            created_ms=CLOCK.now_ms(),
            expires_ms=CLOCK.now_ms() + 1_000_000,
        )
        return {"stored": list((await self._blobs.open(made)).stored)}

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> None:
        self.puts += 1
        await self._blobs.put_chunk(blob, index, chunk)

    async def read_chunk(self, blob: str, index: int) -> bytes:
        if self.reads_left == 0:
            raise Unavailable("cut off")
        self.reads_left -= 1
        self.reads += 1
        chunk = await self._blobs.read_chunk(blob, index)
        return bytes([chunk[0] ^ 1]) + chunk[1:] if self.flip else chunk


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "report.bin"
    path.write_bytes(bytes(range(256)) * (BLOB_CHUNK_BYTES // 256 * 2 + 3))
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_api(scenario: Any) -> None:
    async def whole() -> None:
        sqlite = await open_sqlite(None, CLOCK, inline=True)
        try:
            await scenario(BlobApi(sqlite.store.blobs))
        finally:
            await sqlite.close()

    asyncio.run(whole())


def test_a_file_arrives_as_it_was(source: Path, tmp_path: Path) -> None:
    async def scenario(api: BlobApi) -> None:
        file = await upload(api, C, source)  # type: ignore[arg-type]
        saved = await save(api, C, file, tmp_path / "copy")  # type: ignore[arg-type]
        assert content(saved) == content(source)
        assert (file.name, file.chunks) == ("report.bin", 3)
        assert names(tmp_path) == ["copy", "report.bin"]

    with_api(scenario)


def test_a_download_that_was_cut_off_fetches_only_what_is_missing(
    source: Path, tmp_path: Path
) -> None:
    async def scenario(api: BlobApi) -> None:
        file = await upload(api, C, source)  # type: ignore[arg-type]
        api.reads_left = 2
        with pytest.raises(Unavailable):
            await save(api, C, file, tmp_path / "copy")  # type: ignore[arg-type]
        assert "copy" not in names(tmp_path)
        api.reads_left = 10
        saved = await save(api, C, file, tmp_path / "copy")  # type: ignore[arg-type]
        assert content(saved) == content(source)
        assert api.reads == 3

    with_api(scenario)


def test_changed_bytes_leave_nothing_behind(source: Path, tmp_path: Path) -> None:
    async def scenario(api: BlobApi) -> None:
        file = await upload(api, C, source)  # type: ignore[arg-type]
        api.flip = True
        with pytest.raises(SealBroken):
            await save(api, C, file, tmp_path / "copy")  # type: ignore[arg-type]
        assert names(tmp_path) == ["report.bin"]

    with_api(scenario)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def scenario(api: BlobApi) -> None:
        with pytest.raises(Misconfigured, match=r"gone\.txt"):
            await upload(api, C, tmp_path / "gone.txt")  # type: ignore[arg-type]

    with_api(scenario)


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x.txt", "x.txt"),
        (".bashrc", "bashrc"),
        ("a\x1b[2Jb", "a[2Jb"),
        ("..", "attachment"),
    ],
)
def test_a_name_chosen_by_others_stays_in_the_folder(given: str, safe: str) -> None:
    assert safe_name(given) == safe
