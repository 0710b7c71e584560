"""Time comes in through the constructor: a `Clock` is an argument, never a global."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two times: `now_ms` for people and records, `monotonic_s` for durations."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC. May step back; order nothing by it."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start. Never steps back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves when told to; for tests and simulations."""

    def __init__(self, now_ms: int = 1_790_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Move both times forward by `seconds`."""
        self._monotonic_s += seconds
        self._now_ms += round(seconds * 1000)
