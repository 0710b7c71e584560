"""Says where the event loop is held up: code that does not wait makes everybody wait."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

BLOCKED_S = 1.0  # Longer between two beats is told.
_BEATS_PER_BOUND = 4
_FRAMES_TOLD = 3

Tell = Callable[[float, str], None]
"""How many seconds so far, and where: the innermost places, the inner ones first."""


class LoopWatch:
    """A thread that looks whether the loop still beats. Start and stop it on that loop.

    `tell` is called in the thread, once for each hold-up, while it lasts.
    """

    def __init__(self, tell: Tell, bound_s: float = BLOCKED_S) -> None:
        self._tell, self._bound_s = tell, bound_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)
        self._beat_s = 0.0
        self._beating: asyncio.TimerHandle | None = None
        self._watched = 0
        self.blocked = 0

    def start(self) -> None:
        self._watched = threading.get_ident()
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        self._beat_s = time.monotonic()
        loop = asyncio.get_running_loop()
        self._beating = loop.call_later(self._bound_s / _BEATS_PER_BOUND, self._beat)

    def _watch(self) -> None:
        told_s = 0.0
        while not self._ended.wait(self._bound_s / _BEATS_PER_BOUND):
            beat_s = self._beat_s
            held_s = time.monotonic() - beat_s
            if held_s >= self._bound_s and told_s != beat_s:
                told_s = beat_s
                self.blocked += 1
                self._tell(held_s, _where(sys._current_frames().get(self._watched)))


def _where(frame: FrameType | None) -> str:
    places: list[str] = []
    while frame is not None and len(places) < _FRAMES_TOLD:
        code = frame.f_code
        places.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(places)
