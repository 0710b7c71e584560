"""What waits to be published: bounded in events and bytes; at a bound the oldest goes."""

from collections import deque
from dataclasses import dataclass

from angarium.limits import (
    BUS_BATCH_BYTES_MAX,
    BUS_BATCH_EVENTS,
    BUS_WAITING_BYTES_MAX,
    BUS_WAITING_EVENTS,
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One packed event. `once`: it has one chance and is not said again after a failure."""

    topic: int
    packed: bytes
    once: bool


class Outgoing:
    """First in, first out. `dropped` counts what was forgotten without being said."""

    def __init__(
        self,
        events_max: int = BUS_WAITING_EVENTS,
        bytes_max: int = BUS_WAITING_BYTES_MAX,
    ) -> None:
        self._events_max, self._bytes_max = events_max, bytes_max
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: Waiting) -> None:
        self._waiting.append(event)
        self._bytes += len(event.packed)
        self._shrink()

    def take(self) -> list[Waiting]:
        """The oldest events, as many as fit one batch; at least one if any waits."""
        taken: list[Waiting] = []
        size = 0
        while self._waiting and len(taken) < BUS_BATCH_EVENTS:
            size += len(self._waiting[0].packed)
            if taken and size > BUS_BATCH_BYTES_MAX:
                break
            taken.append(self._waiting.popleft())
            self._bytes -= len(taken[-1].packed)
        return taken

    def put_back(self, taken: list[Waiting]) -> None:
        """They could not be said. What has one chance is dropped, the rest waits in front."""
        kept = [each for each in (*taken, *self._waiting) if not each.once]
        self.dropped += len(taken) + len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self._bytes = sum(len(each.packed) for each in kept)
        self._shrink()

    def _shrink(self) -> None:
        while self._waiting and (
            len(self._waiting) > self._events_max or self._bytes > self._bytes_max
        ):
            self._bytes -= len(self._waiting.popleft().packed)
            self.dropped += 1
