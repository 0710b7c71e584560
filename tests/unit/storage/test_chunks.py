import asyncio
import errno
from pathlib import Path

import pytest

from angarium.errors import DiskFull, NotFound, StoreUnwritable
from angarium.storage.chunks import (
    ChunkFolder,
    ChunkMemory,
    Chunks,
    chunk_digest,
    chunk_name,
    stored_names,
)
from angarium.storage.files import translate_os, write_durably


@pytest.fixture(params=["folder", "folder-inline", "memory"])
def chunks(request: pytest.FixtureRequest, tmp_path: Path) -> Chunks:
    if request.param == "memory":
        return ChunkMemory()
    return ChunkFolder(tmp_path / "blobs", inline=request.param == "folder-inline")


def test_a_chunk_is_there_until_it_is_dropped(chunks: Chunks) -> None:
    async def scenario() -> None:
        name = chunk_name("b", 0, chunk_digest(b"bytes"))
        await chunks.put(name, b"bytes")
        await chunks.put(name, b"bytes")
        assert await chunks.get(name) == b"bytes"
        await chunks.drop(name)
        await chunks.drop(name)
        with pytest.raises(NotFound):
            await chunks.get(name)
        chunks.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("blob", ["../../etc/passwd", "/abs", "a" * 5000, "", "x\x00y"])
def test_no_blob_id_leads_out_of_the_folder(tmp_path: Path, blob: str) -> None:
    name = chunk_name(blob, 3, chunk_digest(b"x"))
    assert (tmp_path / name).resolve().is_relative_to(tmp_path)
    write_durably(tmp_path / name, b"x")
    assert list(stored_names(tmp_path)) == [name]


def test_names_differ_by_blob_position_and_bytes() -> None:
    names = {
        chunk_name(blob, position, chunk_digest(content))
        for blob in ("a", "b")
        for position in (0, 1)
        for content in (b"x", b"y")
    }
    assert len(names) == 8


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    with pytest.raises(TypeError):
        write_durably(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    write_durably(tmp_path / "ab" / "whole.0.x", b"")
    write_durably(tmp_path / "ab" / "part.0.x.1.2.tmp", b"")
    assert list(stored_names(tmp_path)) == ["ab/whole.0.x"]


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, StoreUnwritable)],
)
def test_the_file_systems_errors_become_ours(code: int, error: type[Exception]) -> None:
    assert type(translate_os(OSError(code, "why"))) is error


def test_a_folder_that_is_a_file_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "blobs").touch()
    chunks = ChunkFolder(tmp_path / "blobs", inline=True)
    with pytest.raises(StoreUnwritable):
        asyncio.run(chunks.put("ab/name", b""))
