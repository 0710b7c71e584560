"""Server-sent events, read from bytes as they come. No IO; bounded."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from angarium.errors import BadReply, TooLarge
from angarium.limits import REMOTE_EVENT_CHARS_MAX


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event. `data` has its lines joined; `name` is `message` where none was given."""

    name: str
    data: str


class SseReader:
    """Feed it the body; it gives each event once its empty line is there.

    Comments, ids and retry times are passed over. An event with a name and no data is one here:
    some end their streams so. What is unfinished at the end of the stream
    is no event: `rest` says whether there is any.
    """

    def __init__(self, event_chars_max: int = REMOTE_EVENT_CHARS_MAX) -> None:
        self._event_chars_max = event_chars_max
        self._decode = codecs.getincrementaldecoder("utf-8")("strict").decode
        self._line: list[str] = []  # Pieces of the line that has not ended yet.
        self._after_cr = self._begun = False
        self._name, self._data = "", list[str]()
        self._size = 0

    @property
    def rest(self) -> bool:
        """Whether something was begun and not ended."""
        return bool(self._line or self._data or self._name)

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """The events that `chunk` completes. Raises TooLarge and BadReply (not UTF-8)."""
        try:
            text = self._decode(chunk)
        except UnicodeDecodeError:
            raise BadReply("an event stream that is not UTF-8") from None
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        return self._feed(text)

    def _feed(self, text: str) -> Iterator[SseEvent]:
        at = 0
        if self._after_cr and text:
            at = int(text[0] == "\n")  # The other half of a line's end, sent apart.
            self._after_cr = False
        while at < len(text):
            end = _line_end(text, at)
            piece = text[at : end if end >= 0 else None]
            self._grow(len(piece))
            self._line.append(piece)
            if end < 0:
                return
            line = "".join(self._line)
            self._line = []
            if line:
                self._take(line)
            elif (event := self._finish()) is not None:
                yield event
            at = end + 1
            if text[end] == "\r":
                self._after_cr = at == len(text)
                at += text[at : at + 1] == "\n"

    def _grow(self, chars: int) -> None:
        self._size += chars
        if self._size > self._event_chars_max:
            raise TooLarge(
                f"one event of a stream has at most {self._event_chars_max} characters"
            )

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        if not self._data:
            self._size = 0  # A stream may consist of comments for as long as it likes.

    def _finish(self) -> SseEvent | None:
        name, data = self._name, self._data
        self._name, self._data, self._size = "", [], 0
        return SseEvent(name or "message", "\n".join(data)) if name or data else None


def _line_end(text: str, start: int) -> int:
    """Where the line ends that begins at `start`, or -1. (splitlines knows too many ends.)"""
    newline = text.find("\n", start)
    # Only up to the newline: a search to the end for each line would be quadratic.
    carriage = text.find("\r", start, newline if newline >= 0 else len(text))
    return carriage if carriage >= 0 else newline
