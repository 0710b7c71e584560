"""Event streams are read the same however the bytes are cut."""

import random
from itertools import pairwise

import pytest

from angarium.agents.kinds.sse import SseEvent, SseReader
from angarium.errors import BadReply, TooLarge

STREAM = (
    "\ufeff: hello\nretry: 10\nid: 7\n\n"
    'data: {"a":1}\n\n'
    "event: delta\ndata:  two spaces\r\ndata:\r\ndata: ünd €\r\n\r\n"
    "data: old\rdata: mac\r\r"
    "event: empty\n\n"
    "data\n\n"
    "unknown: x\ndata: last\n\n"
).encode()
EVENTS = [
    SseEvent("message", '{"a":1}'),
    SseEvent("delta", " two spaces\n\nünd €"),
    SseEvent("message", "old\nmac"),
    SseEvent("empty", ""),
    SseEvent("message", ""),
    SseEvent("message", "last"),
]


def read(*chunks: bytes) -> list[SseEvent]:
    reader = SseReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_a_stream_in_one_piece_is_read() -> None:
    assert read(STREAM) == EVENTS


def test_a_stream_cut_after_each_byte_reads_the_same() -> None:
    assert read(*(bytes([byte]) for byte in STREAM)) == read(STREAM)


def test_a_stream_cut_anywhere_reads_the_same() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        cuts = sorted(dice.sample(range(len(STREAM)), 5))
        bounds = [0, *cuts, len(STREAM)]
        chunks = [STREAM[a:b] for a, b in pairwise(bounds)]
        assert read(*chunks) == read(STREAM), seed


def test_a_name_without_data_is_an_event_and_an_empty_line_is_none() -> None:
    assert read(b"\n\nevent: done\n\n\n\n") == [SseEvent("done", "")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_what_is_not_finished_is_no_event_and_is_known(end: bytes) -> None:
    reader = SseReader()
    assert list(reader.feed(b"data: begun" + end)) == []
    assert reader.rest
    assert list(reader.feed(b"\n\n")) == [SseEvent("message", "begun")]
    assert not reader.rest


def test_bytes_that_are_not_utf_8_are_named() -> None:
    with pytest.raises(BadReply):
        read(b"data: \xff\xfe\n\n")


@pytest.mark.parametrize("piece", [b"x" * 1000, b"data: x\n" * 100, b"data: x\n:y\n" * 100])
def test_an_event_that_never_ends_is_stopped(piece: bytes) -> None:
    reader = SseReader(event_chars_max=5000)
    with pytest.raises(TooLarge):
        [list(reader.feed(piece)) for _ in range(100)]


def test_comments_for_ever_are_no_event_and_no_harm() -> None:
    reader = SseReader(event_chars_max=100)
    for _ in range(1000):
        assert list(reader.feed(b": still here\n")) == []
    assert list(reader.feed(b"data: x\n\n")) == [SseEvent("message", "x")]
