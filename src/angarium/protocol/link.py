"""A client's connection, when it counts as dead, and what its end means. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from angarium.errors import (
    AngariumError,
    Forbidden,
    Malformed,
    Replaced,
    TooLarge,
    Unauthenticated,
    UnsupportedVersion,
)
from angarium.limits import DEAD_AFTER_S, HELLO_WAIT_S, RECONNECT_MAX_S, RECONNECT_MIN_S

RECONNECT_S = (RECONNECT_MIN_S, RECONNECT_MAX_S)
_NAMES_A_TIME = (4013, 4029)
_TERMINAL: dict[int, type[AngariumError]] = {
    error.close_code: error
    for error in (
        Malformed,
        Unauthenticated,
        Forbidden,
        UnsupportedVersion,
        Replaced,
        TooLarge,
    )
}


@dataclass(slots=True)
class Link:
    """One connection; `heard_s` is when anything came last."""

    number: int
    phase: Literal["opening", "greeting", "syncing", "live"]
    heard_s: float

    def deadline_s(self) -> float:
        """When it counts as dead unless something comes."""
        young = self.phase in ("opening", "greeting")
        return self.heard_s + (HELLO_WAIT_S if young else DEAD_AFTER_S)


def backoff_s(
    failures: int,
    code: int,
    reason: str,
    random: Callable[[], float],
    bounds_s: tuple[float, float] = RECONNECT_S,
) -> float:
    """Seconds until the next try: full jitter over a window that doubles with each failure.
    A server that names a time (milliseconds in the reason) is obeyed."""
    least_s, most_s = bounds_s
    window_s = min(most_s, least_s * float(2 << min(failures, 10)))
    jitter_s = least_s + random() * (window_s - least_s)
    named = re.search(r"\d+", reason) if code in _NAMES_A_TIME else None
    if named is None:
        return jitter_s
    return min(int(named.group()) / 1000, 10 * RECONNECT_MAX_S) + random() * jitter_s


def terminal_error(code: int, reason: str) -> AngariumError:
    """What a close of 4400 or above means; reconnecting would not help."""
    error = _TERMINAL.get(code, AngariumError)
    return error(reason or f"the server closed the connection with {code}")
