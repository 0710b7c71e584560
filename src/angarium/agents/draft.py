"""The reply while it is being made: collected whole, shown in pieces."""

import asyncio
from dataclasses import dataclass

from angarium.agents.reply_guard import guard_reply
from angarium.e2ee.body import Body
from angarium.ids import ConversationId
from angarium.limits import (
    PART_CHARS_MAX,
    PART_EVERY_S,
    REPLY_BYTES_MAX,
    STATUSES_PER_TURN_MAX,
    STILL_WORKING_S,
    TYPING_TTL_MS,
)
from angarium.sdk.contract import Endpoint

STILL_WORKING = "still working"


@dataclass(frozen=True, slots=True)
class Place:
    """Where pieces of a reply go."""

    conversation: ConversationId
    ref: str
    stream: bytes
    agent: str


class Draft:
    """Collects text and sends it as joined pieces; keeps typing and "still working" alive.

    The first piece leaves as soon as the agent waits for anything, later ones at most every
    PART_EVERY_S; an agent that says all it has at once sends no piece, only its reply.

    Pieces are ephemeral: any of them may be lost, the final message has the whole text. Create
    it inside a running loop and `close` it; its only timer is owned here.
    """

    def __init__(self, endpoint: Endpoint, place: Place) -> None:
        self._endpoint, self._place = endpoint, place
        self._loop = asyncio.get_running_loop()
        self._said: list[str] = []
        self._said_bytes = 0
        self._unsent: list[str] = []
        self._index = 0
        self._statuses = 0
        self._flush: asyncio.Handle | None = None
        self._next_piece_s = 0.0
        self._last_sign_s = self._loop.time()
        endpoint.typing(place.conversation, True)
        self._beat = self._loop.call_later(self._beat_s, self._on_beat)

    @property
    def _beat_s(self) -> float:
        return float(min(STILL_WORKING_S, TYPING_TTL_MS / 2000))

    @property
    def text(self) -> str:
        return "".join(self._said)

    def add(self, text: str) -> None:
        """Add to the reply. What is over the reply's bound is dropped; `cut_reply` notes it."""
        if not text or self._said_bytes > REPLY_BYTES_MAX:
            return
        self._said.append(text)
        self._said_bytes += len(text.encode())
        self._unsent.append(text)
        if sum(map(len, self._unsent)) >= PART_CHARS_MAX:
            self._send_unsent()
        elif self._flush is None:
            wait_s = self._next_piece_s - self._loop.time()
            self._flush = (
                self._loop.call_later(wait_s, self._send_unsent)
                if wait_s > 0
                else self._loop.call_soon(self._send_unsent)
            )

    def status(self, text: str) -> None:
        """Show progress; not part of the reply."""
        if self._statuses >= STATUSES_PER_TURN_MAX:
            return
        self._statuses += 1
        self._send_unsent()
        self._send(Body(type="status", text=text, agent=self._place.agent))

    def take(self) -> str:
        """Return what was said so far and start anew: it goes out with a question."""
        said = self.text
        self._said, self._unsent, self._said_bytes = [], [], 0
        self._stop_flush()
        return said

    def close(self) -> None:
        self._stop_flush()
        self._beat.cancel()
        self._endpoint.typing(self._place.conversation, False)

    def _send_unsent(self) -> None:
        self._stop_flush()
        if self._unsent:
            piece, _ = guard_reply("".join(self._unsent))
            self._unsent = []
            self._next_piece_s = self._loop.time() + PART_EVERY_S
            self._send(Body(text=piece, agent=self._place.agent))

    def _send(self, body: Body) -> None:
        self._last_sign_s = self._loop.time()
        place = self._place
        self._endpoint.part(place.conversation, place.ref, self._index, body, place.stream)
        self._index += 1

    def _on_beat(self) -> None:
        self._endpoint.typing(self._place.conversation, True)
        if self._loop.time() - self._last_sign_s >= STILL_WORKING_S:
            self.status(STILL_WORKING)
        self._beat = self._loop.call_later(self._beat_s, self._on_beat)

    def _stop_flush(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
