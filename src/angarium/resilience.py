"""Calls to the outside: classified, retried within bounds, broken off while they fail."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from angarium.clock import Clock
from angarium.errors import AngariumError, Unavailable

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Verdict = Literal["retry", "stop"]

ATTEMPTS_MAX = 4
WAIT_MIN_S = 0.2
WAIT_MAX_S = 10.0
BREAKER_WINDOW_S = 30.0
BREAKER_CALLS_MIN = 8  # Fewer outcomes in the window say nothing.
BREAKER_FAILED_SHARE = 0.5
BREAKER_OPEN_S = 10.0  # Then one probe is let through.


def classify(error: BaseException) -> Verdict:
    """Whether the same call may work a little later.

    Retry: what says of itself that it is retryable, time-outs and broken connections. A caller
    that cannot repeat a call safely must not ask.
    """
    if isinstance(error, AngariumError):
        return "retry" if error.retryable else "stop"
    return "retry" if isinstance(error, TimeoutError | ConnectionError) else "stop"


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    attempts_max: int = ATTEMPTS_MAX,
    wait_min_s: float = WAIT_MIN_S,
    wait_max_s: float = WAIT_MAX_S,
    sleep: Sleep = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
) -> T:
    """The first answer within `attempts_max` calls; else the last error, as it was raised.

    Waits with full jitter, doubling from `wait_min_s` to `wait_max_s`; what the other side asks
    for (`after_ms`, from Retry-After) is the least. Asked to wait longer than `wait_max_s`, it
    gives up at once and leaves the waiting to the caller.
    """
    attempt = 1
    while True:
        try:
            return await call()
        except Exception as error:
            asked_s = error.after_ms / 1000 if isinstance(error, Unavailable) else 0.0
            spent = attempt >= attempts_max or asked_s > wait_max_s
            if spent or classify(error) == "stop":
                raise
        backoff_s = min(wait_max_s, wait_min_s * 2 ** (attempt - 1))
        await sleep(min(wait_max_s, asked_s + jitter() * backoff_s))
        attempt += 1


class Breaker:
    """Closed: calls pass. Open: Unavailable at once. Half open: one probe decides.

    Opens when at least BREAKER_FAILED_SHARE of the calls of the last BREAKER_WINDOW_S failed in
    a way that `classify` calls "retry"; refusals by the other side show that it works.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name, self._clock = name, clock
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=1024)
        self._opened_s: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self._opened_s is not None

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, unless the breaker is open: Unavailable with `after_ms` then."""
        probe = self._admit()
        try:
            result = await call()
        except Exception as error:
            self._settle(probe, failed=classify(error) == "retry")
            raise
        except BaseException:
            # Cancelled: nothing is known; the next call may probe.
            self._probing = self._probing and not probe
            raise
        self._settle(probe, failed=False)
        return result

    def _admit(self) -> bool:
        """Whether this call is the probe. Raises Unavailable."""
        if self._opened_s is None:
            return False
        left_s = self._opened_s + BREAKER_OPEN_S - self._clock.monotonic_s()
        if left_s > 0 or self._probing:
            after_ms = max(1, round(max(left_s, 1.0) * 1000))
            raise Unavailable(f"{self.name} does not answer", after_ms)
        self._probing = True
        return True

    def _settle(self, probe: bool, *, failed: bool) -> None:
        now_s = self._clock.monotonic_s()
        if self._opened_s is not None and not probe:
            return  # An outcome of a call from before it opened.
        if probe:
            self._probing = False
            self._outcomes.clear()
            self._opened_s = now_s if failed else None
            return
        self._outcomes.append((now_s, failed))
        while self._outcomes[0][0] < now_s - BREAKER_WINDOW_S:
            self._outcomes.popleft()
        failures = sum(failed for _, failed in self._outcomes)
        enough = len(self._outcomes) >= BREAKER_CALLS_MIN
        if enough and failures >= BREAKER_FAILED_SHARE * len(self._outcomes):
            self._opened_s = now_s
