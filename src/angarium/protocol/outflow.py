"""Sends on their way out: dense counters, limits in flight, the same bytes on every try. Pure.

A send leaves this queue when the relay has stored it, or refuses it for good. What follows a
refused send moves up, so that the counters stay dense.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from angarium.errors import (
    AngariumError,
    EpochChanged,
    Gone,
    KeyExpired,
    KeyReused,
    OutOfOrder,
    StaleDevices,
    Unavailable,
    every_error,
)
from angarium.limits import SENDS_IN_FLIGHT_PER_CONNECTION, SENDS_IN_FLIGHT_PER_CONVERSATION
from angarium.protocol.frames import Err, Sealed, Send

PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 10.0
DOUBTS_MAX = 8  # Answers in a row that deny what was confirmed; then they are believed.

SendState = Literal["waiting", "in_flight", "resealing"]


@dataclass(slots=True)
class Outgoing:
    """One message to append: `to` is sealed once and re-sent as it is."""

    c: str
    key: str
    cs: int
    to: Sequence[Sealed]
    kind: str = "msg"
    state: SendState = "waiting"
    id: int = 0
    tries: int = 0


@dataclass(slots=True)
class Lane:
    """The sends of one conversation in counter order; none leaves before `paused_until_s`.

    `window` is how many may be in flight: halved by a refusal, widened by what is stored, so
    that a relay which slows this device down is not asked for the same again and again.
    """

    sends: list[Outgoing] = field(default_factory=list)
    paused_until_s: float = 0.0
    refusals: int = 0
    window: float = SENDS_IN_FLIGHT_PER_CONVERSATION


Verdict = Literal["retry", "reseal", "accepted", "refused", "reset"]


class Outflow:
    """All sends of one device that the relay has not confirmed."""

    def __init__(self, next_id: Callable[[], int], random: Callable[[], float]) -> None:
        self._next_id = next_id
        self._random = random
        self._lanes: dict[str, Lane] = {}
        self._by_id: dict[int, Outgoing] = {}
        self._confirmed: dict[str, int] = {}  # Conversation -> highest counter stored.
        self.limit_conversation = SENDS_IN_FLIGHT_PER_CONVERSATION
        self.limit_connection = SENDS_IN_FLIGHT_PER_CONNECTION

    def __len__(self) -> int:
        return sum(len(lane.sends) for lane in self._lanes.values())

    def add(self, send: Outgoing) -> None:
        """Queue it in counter order."""
        sends = self._lanes.setdefault(send.c, Lane()).sends
        sends.append(send)
        sends.sort(key=lambda queued: queued.cs)

    def find(self, c: str, key: str) -> Outgoing | None:
        lane = self._lanes.get(c)
        return next((send for send in lane.sends if send.key == key), None) if lane else None

    def by_id(self, request: int) -> Outgoing | None:
        return self._by_id.get(request)

    def stored(self, send: Outgoing) -> None:
        """The relay has it."""
        self._confirmed[send.c] = max(send.cs, self._confirmed.get(send.c, 0))
        self.remove(send)

    def forget(self, c: str) -> None:
        """The conversation began anew: what was confirmed may be gone."""
        self._confirmed.pop(c, None)

    def remove(self, send: Outgoing) -> None:
        self._by_id.pop(send.id, None)
        lane = self._lanes[send.c]
        lane.sends.remove(send)
        lane.refusals = 0
        lane.window = min(SENDS_IN_FLIGHT_PER_CONVERSATION, lane.window + 1 / lane.window)
        if not lane.sends:
            del self._lanes[send.c]

    def lost_connection(self) -> None:
        """Nothing is in flight any more; everything unconfirmed leaves again, oldest first."""
        self._by_id.clear()
        for lane in self._lanes.values():
            lane.paused_until_s, lane.window = 0.0, SENDS_IN_FLIGHT_PER_CONVERSATION
            for send in lane.sends:
                if send.state == "in_flight":
                    send.state = "waiting"

    def ready(self, now_s: float) -> list[Send]:
        """What may leave now within the limits; it counts as in flight from here on."""
        frames: list[Send] = []
        for lane in self._lanes.values():
            if now_s >= lane.paused_until_s:
                frames += self._ready_of(lane)
        return frames

    def _ready_of(self, lane: Lane) -> list[Send]:
        frames: list[Send] = []
        for send in lane.sends[: min(self.limit_conversation, int(lane.window))]:
            if send.state == "resealing" or len(self._by_id) >= self.limit_connection:
                break
            if send.state == "waiting":
                send.id, send.state = self._next_id(), "in_flight"
                send.tries += 1
                self._by_id[send.id] = send
                frames.append(
                    Send(send.id, send.c, send.key, send.cs, list(send.to), send.kind)
                )
        return frames

    def next_due_s(self, now_s: float) -> float | None:
        """When the earliest pause ends; None: no lane is paused."""
        paused = [
            lane.paused_until_s
            for lane in self._lanes.values()
            if lane.sends and lane.paused_until_s > now_s
        ]
        return min(paused, default=None)

    def judge(self, send: Outgoing, err: Err, now_s: float) -> Verdict:
        """What a refusal means for this send; its state is set accordingly."""
        self._by_id.pop(send.id, None)
        send.state = "waiting"
        if err.code == StaleDevices.code:
            send.state = "resealing"
            return "reseal"
        if err.code in (KeyReused.code, KeyExpired.code) and send.tries > 1:
            # An earlier try was stored and its answer lost; sealed again it differs.
            return "accepted"
        if err.code == EpochChanged.code:
            return "reset"
        if err.code == OutOfOrder.code:
            self._pause(send, 0, now_s)
            return "retry"
        if err.retry:
            self._pause(send, err.after_ms, now_s)
            return "retry"
        return "refused"

    def expect(self, c: str, cs: int) -> list[tuple[str, int]]:
        """The relay expects counter `cs` next. Returns (key, new counter) of moved sends.

        When that send is queued here it leaves again with the others; when it is not, it was
        refused or belongs to a history that is gone, and the queue moves to `cs`. A node that
        has not seen yet what another one stored is asked again first.
        """
        lane = self._lanes.get(c)
        if lane is None or not lane.sends or lane.sends[0].cs <= cs <= lane.sends[-1].cs:
            return []
        if cs <= self._confirmed.get(c, 0):
            if lane.refusals < DOUBTS_MAX:
                return []
            self._confirmed[c] = cs - 1
        return self._number_from(lane.sends, cs)

    def close_up(self, c: str, cs: int) -> list[tuple[str, int]]:
        """Counter `cs` was refused for good: later sends move up. Returns what moved."""
        lane = self._lanes.get(c)
        return self._number_from([s for s in lane.sends if s.cs > cs], cs) if lane else []

    def _number_from(self, sends: Sequence[Outgoing], cs: int) -> list[tuple[str, int]]:
        moved: list[tuple[str, int]] = []
        for number, send in enumerate(sends, cs):
            if send.state == "in_flight":
                self._by_id.pop(send.id, None)
                send.state = "waiting"
            if send.cs != number:
                if number < send.cs:
                    send.tries = 0  # Nothing was ever stored of it under the lower counter.
                send.cs = number
                moved.append((send.key, number))
        return moved

    def _pause(self, send: Outgoing, after_ms: int, now_s: float) -> None:
        lane = self._lanes[send.c]
        if now_s >= lane.paused_until_s:
            # What was in flight beside the first refused one is refused too: counted once.
            lane.refusals += 1
            lane.window = max(1.0, lane.window / 2)
        backoff_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(lane.refusals - 1, 12))
        pause_s = max(after_ms / 1000, backoff_s * (0.5 + self._random() / 2))
        lane.paused_until_s = max(lane.paused_until_s, now_s + pause_s)


def refusal(err: Err) -> AngariumError:
    """The error an `err` frame names, as an exception a program can act on."""
    kind = every_error().get(err.code, AngariumError)
    if issubclass(kind, OutOfOrder):
        return kind(err.expect_cs)
    if issubclass(kind, StaleDevices):
        return kind(err.missing, err.extra)
    if issubclass(kind, Gone):
        return kind(err.floor)
    if issubclass(kind, Unavailable):
        return kind(err.why or "try again later", err.after_ms or 1000)
    return kind(err.why or err.code)
