"""Files sealed in chunks: whole or not at all."""

import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from angarium.e2ee import attachments
from angarium.e2ee.attachments import CHUNK_PLAIN_BYTES, FileOpener, SealedFile, padded_size
from angarium.e2ee.body import FileRef
from angarium.errors import Malformed, SealBroken, TooLarge
from angarium.ids import ConversationId
from angarium.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES

CONVERSATION = ConversationId("0190f3c4-0000-7000-8000-000000000001")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 bytes, so that many of them are cheap."""
    monkeypatch.setattr(attachments, "CHUNK_PLAIN_BYTES", 64)


def reader(content: bytes) -> Callable[[int, int], bytes]:
    return lambda start, length: content[start : start + length]


def sealed(content: bytes) -> tuple[FileRef, list[bytes]]:
    file = SealedFile.plan(CONVERSATION, "blob", len(content))
    chunks = [chunk for _, chunk in file.seal(reader(content))]
    digest = hashlib.sha256(b"".join(chunks)).digest()
    return file.reference(digest, "cat.png", "image/png"), chunks


def opened(file: FileRef, chunks: list[bytes]) -> bytes:
    return b"".join(FileOpener(CONVERSATION, file).open(iter(chunks)))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 129, 1000, 1025])
def test_a_file_of_any_size_comes_back(size: int) -> None:
    content = bytes(range(256)) * 5
    file, chunks = sealed(content[:size])

    assert len(chunks) == file.chunks
    assert opened(file, chunks) == content[:size]


def test_an_upload_that_resumes_makes_the_same_bytes() -> None:
    content = bytes(range(200))
    file = SealedFile.plan(CONVERSATION, "blob", len(content))
    whole = list(file.seal(reader(content)))

    assert list(file.seal(reader(content), first=2)) == whole[2:]


def test_a_file_that_changed_between_two_tries_reuses_no_nonce() -> None:
    file = SealedFile.plan(CONVERSATION, "blob", 100)

    before, after = (file.seal_chunk(0, reader(content * 100)) for content in (b"a", b"b"))

    assert before[:7] != after[:7]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda chunks: chunks[:-1],
        lambda chunks: [*chunks, chunks[-1]],
        lambda chunks: [chunks[1], chunks[0], *chunks[2:]],
        lambda chunks: [chunks[0], *chunks[2:], chunks[1]],
        lambda chunks: [chunks[0], chunks[0], *chunks[2:]],
        lambda chunks: [chunks[0][:-1], *chunks[1:]],
        lambda chunks: [b"", *chunks[1:]],
        lambda chunks: [chunks[0][:20] + b"\x00" + chunks[0][21:], *chunks[1:]],
        lambda chunks: [],
    ],
)
def test_a_cut_reordered_or_changed_file_is_refused(
    spoil: Callable[[list[bytes]], list[bytes]],
) -> None:
    file, chunks = sealed(bytes(range(250)))

    with pytest.raises(SealBroken):
        opened(file, spoil(chunks))


def test_a_chunk_of_another_blob_or_conversation_does_not_open() -> None:
    file, chunks = sealed(bytes(100))
    elsewhere = FileOpener(ConversationId("0190f3c4-0000-7000-8000-000000000002"), file)
    file.blob = "other"

    for opener in (elsewhere, FileOpener(CONVERSATION, file)):
        with pytest.raises(SealBroken):
            opener.open_chunk(0, chunks[0])


def test_a_whole_that_differs_from_the_promise_is_refused_at_the_end() -> None:
    file, chunks = sealed(bytes(100))
    file.sha256 = bytes(32)

    with pytest.raises(SealBroken):
        opened(file, chunks)


def test_chunks_open_in_any_order_for_a_resumed_download() -> None:
    content = bytes(range(250))
    file, chunks = sealed(content)
    opener = FileOpener(CONVERSATION, file)

    parts = {index: opener.open_chunk(index, chunks[index]) for index in (3, 1, 0, 2)}

    assert b"".join(parts[index] for index in range(4)) == content
    with pytest.raises(SealBroken):
        opener.finish()


@pytest.mark.parametrize(("size", "chunks"), [(100, 1), (100, 3), (-1, 1), (1 << 40, 2)])
def test_a_size_that_contradicts_the_chunks_is_malformed(size: int, chunks: int) -> None:
    file = FileRef("blob", bytes(32), bytes(32), "x", "x", size, chunks)

    with pytest.raises(Malformed):
        FileOpener(CONVERSATION, file)


def test_a_chunk_has_the_documented_form() -> None:
    content = bytes(range(100))
    file = SealedFile.plan(CONVERSATION, "blob", len(content))

    opened_by_hand = b""
    for index, chunk in file.seal(reader(content)):
        nonce = chunk[:7] + index.to_bytes(4, "big") + (b"\x01" if index == 1 else b"\x00")
        place = CONVERSATION.encode() + b"\x00blob\x002"
        opened_by_hand += AESGCM(file.key).decrypt(nonce, chunk[7:], place)

    assert opened_by_hand.rstrip(b"\x00") == content


def test_a_file_that_shrank_is_malformed() -> None:
    file = SealedFile.plan(CONVERSATION, "blob", 100)

    with pytest.raises(Malformed):
        list(file.seal(reader(bytes(80))))


def test_there_is_no_chunk_outside_the_file() -> None:
    file = SealedFile.plan(CONVERSATION, "blob", 100)

    for index in (-1, file.chunks):
        with pytest.raises(IndexError):
            file.seal_chunk(index, reader(bytes(100)))


def test_a_file_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge):
        SealedFile.plan(CONVERSATION, "blob", BLOB_BYTES_MAX)


@given(st.integers(0, 1 << 40))
def test_padding_hides_the_size_for_at_most_an_eighth(size: int) -> None:
    padded = padded_size(size)

    assert size <= padded <= max(1, size + size // 8)
    assert padded_size(padded) == padded


def test_a_real_chunk_fills_what_the_relay_stores() -> None:
    assert CHUNK_PLAIN_BYTES + 7 + 16 == BLOB_CHUNK_BYTES


@pytest.mark.slow
def test_a_file_of_several_real_chunks_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "CHUNK_PLAIN_BYTES", CHUNK_PLAIN_BYTES)
    content = bytes(range(256)) * 10_000
    file, chunks = sealed(content)

    assert [len(chunk) for chunk in chunks[:-1]] == [BLOB_CHUNK_BYTES] * (file.chunks - 1)
    assert opened(file, chunks) == content
