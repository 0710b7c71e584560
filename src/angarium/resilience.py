"""Calls to the outside: classified, retried within bounds, broken off while they fail."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

from angarium.clock import Clock
from angarium.errors import AngariumError, Unavailable
from angarium.limits import BREAKER_ASK_AGAIN_S, BREAKER_PROBE_S

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Verdict = Literal["retry", "stop"]

ATTEMPTS_MAX = 4
WAIT_MIN_S = 0.2
WAIT_MAX_S = 10.0
BREAKER_WINDOW_S = 30.0
BREAKER_CALLS_MIN = 8  # Fewer outcomes in the window say nothing.
BREAKER_FAILED_SHARE = 0.5
BREAKER_OUTCOMES_MAX = 1024  # The oldest go first.
BREAKER_OPEN_S = 10.0  # Then one probe is let through.


def classify(error: BaseException) -> Verdict:
    """Whether the same call may work a little later.

    Retry: what says of itself that it is retryable, time-outs and broken connections. A caller
    that cannot repeat a call safely must not ask.
    """
    if isinstance(error, AngariumError):
        return "retry" if error.retryable else "stop"
    return "retry" if isinstance(error, TimeoutError | ConnectionError) else "stop"


async def cancellable(call: Awaitable[T]) -> T:
    """The same call, ended by a cancel.

    Drivers use `asyncio.wait_for`, which in Python 3.11 loses a cancel that comes as it ends:
    a task that is told to end would go on.
    """
    task = asyncio.current_task()
    cancels = task.cancelling() if task is not None else 0
    try:
        return await call
    finally:
        if task is not None and task.cancelling() > cancels:
            raise asyncio.CancelledError


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
            pause_s = pause_before(attempt, error, wait_min_s, wait_max_s, jitter)
            if pause_s is None or attempt >= attempts_max:
                raise
        await sleep(pause_s)
        attempt += 1


def pause_before(
    attempt: int,
    error: Exception,
    wait_min_s: float,
    wait_max_s: float,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """How long to wait after attempt number `attempt`, from 1, failed with `error`; None: give
    up, it will not pass, or asks for more than `wait_max_s`."""
    asked_s = error.after_ms / 1000 if isinstance(error, Unavailable) else 0.0
    if asked_s > wait_max_s or classify(error) == "stop":
        return None
    backoff_s = min(wait_max_s, wait_min_s * 2.0 ** (attempt - 1))
    return min(wait_max_s, asked_s + jitter() * backoff_s)


Told = Callable[[float | None], None]
"""Another node's breaker: open for so many seconds more, or closed (None)."""


class BreakerPeers(Protocol):
    """The breakers of the same name on other nodes. Soft: what is said may be lost."""

    def join(self, name: str, told: Told) -> None:
        """Call `told` on the loop when another node's breaker opened or closed."""
        ...

    def opened(self, name: str) -> None:
        """This node's opened for BREAKER_OPEN_S. Returns at once, raises nothing."""
        ...

    def closed(self, name: str) -> None:
        """This node's probe succeeded. Returns at once, raises nothing."""
        ...

    def released(self, name: str) -> None:
        """This node's probe ended without an outcome. Returns at once, raises nothing."""
        ...

    async def probe(self, name: str) -> float:
        """0: this node may make the one probe. Else how many seconds to wait, at least.

        `told` is called first when the breaker was closed meanwhile. Bounded in time, raises
        nothing; 0 when the peers cannot be asked.
        """
        ...


class Breaker:
    """Closed: calls pass. Open: Unavailable at once. Half open: one probe decides.

    Opens when at least BREAKER_FAILED_SHARE of the calls of the last BREAKER_WINDOW_S failed in
    a way that `classify` calls "retry"; refusals by the other side show that it works. With
    `peers`, nodes open and close together and one of them probes.
    """

    def __init__(self, name: str, clock: Clock, peers: BreakerPeers | None = None) -> None:
        self.name, self._clock, self._peers = name, clock, peers
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0  # Among them; counted, because a sum for each call would cost.
        self._opened_s: float | None = None
        self._probing = False
        if peers is not None:
            peers.join(name, self._told)

    @property
    def is_open(self) -> bool:
        return self._opened_s is not None

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        if self._opened_s is None:
            return "closed"
        left_s = self._opened_s + BREAKER_OPEN_S - self._clock.monotonic_s()
        return "open" if left_s > 0 else "half_open"

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, unless the breaker is open: Unavailable with `after_ms` then."""
        admission = await self.admit()
        try:
            result = await call()
        except Exception as error:
            admission.settle(failed=classify(error) == "retry")
            raise
        except BaseException:
            admission.release()
            raise
        admission.settle(failed=False)
        return result

    async def admit(self) -> "Admission":
        """Permission for one call whose outcome is told later: for a stream, at its end.

        Raises Unavailable with `after_ms` while the breaker is open.
        """
        probe = self._admit()
        if probe and self._peers is not None:
            probe = await self._ask_peers(self._peers)
        return Admission(self, probe)

    def fail(self) -> None:
        """A call that was released has failed after all: it took too long."""
        self._settle(self._opened_s is not None, failed=True)

    def _admit(self) -> bool:
        """Whether this call is the probe. Raises Unavailable."""
        if self._opened_s is None:
            return False
        left_s = self._opened_s + BREAKER_OPEN_S - self._clock.monotonic_s()
        if left_s > 0 or self._probing:
            raise self._unavailable(max(left_s, 1.0))
        self._probing = True
        return True

    async def _ask_peers(self, peers: BreakerPeers) -> bool:
        """Whether this call is the probe of all nodes; not when one of them closed the
        breaker meanwhile. Raises Unavailable."""
        try:
            wait_s = await peers.probe(self.name)
        except BaseException:
            self._release()
            raise
        if self._opened_s is not None and wait_s <= 0:
            return True
        self._probing = False
        if self._opened_s is not None:
            raise self._unavailable(wait_s)
        return False

    def _release(self) -> None:
        """Cancelled: nothing is known; the next call may probe."""
        self._probing = False
        if self._peers is not None:
            self._peers.released(self.name)

    def _unavailable(self, wait_s: float) -> Unavailable:
        return Unavailable(f"{self.name} does not answer", max(1, round(wait_s * 1000)))

    def _told(self, left_s: float | None) -> None:
        self._forget()
        if left_s is None:
            self._opened_s = None
        else:
            self._opened_s = self._clock.monotonic_s() + left_s - BREAKER_OPEN_S

    def _settle(self, probe: bool, *, failed: bool) -> None:
        now_s = self._clock.monotonic_s()
        if self._opened_s is not None and not probe:
            return  # An outcome of a call from before it opened.
        if probe:
            self._probing = False
            self._forget()
            self._turn(now_s if failed else None)
            return
        outcomes = self._outcomes
        outcomes.append((now_s, failed))
        self._failures += failed
        while len(outcomes) > BREAKER_OUTCOMES_MAX or outcomes[0][0] < now_s - BREAKER_WINDOW_S:
            self._failures -= outcomes.popleft()[1]
        many = failed and len(outcomes) >= BREAKER_CALLS_MIN
        if many and self._failures >= BREAKER_FAILED_SHARE * len(outcomes):
            self._turn(now_s)

    def _forget(self) -> None:
        self._outcomes.clear()
        self._failures = 0

    def _turn(self, opened_s: float | None) -> None:
        self._opened_s = opened_s
        if self._peers is None:
            return
        if opened_s is None:
            self._peers.closed(self.name)
        else:
            self._peers.opened(self.name)


class Admission:
    """One call that a breaker let through. Tell its outcome once; more is not heard."""

    __slots__ = ("_breaker", "_probe")

    def __init__(self, breaker: Breaker, probe: bool) -> None:
        self._breaker: Breaker | None = breaker
        self._probe = probe

    def settle(self, *, failed: bool) -> None:
        """The call has ended; `failed`: in a way that speaks against the other side."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(self._probe, failed=failed)

    def release(self) -> None:
        """The call was given up by us: nothing is known."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None and self._probe:
            breaker._release()


class LocalBreakers:
    """Implements `BreakerPeers` inside one process; nodes of a test share one table."""

    def __init__(self, clock: Clock, table: "BreakerTable | None" = None) -> None:
        self._clock = clock
        self._table = BreakerTable() if table is None else table

    def join(self, name: str, told: Told) -> None:
        self._table.told.setdefault(name, []).append((self, told))

    def opened(self, name: str) -> None:
        self._table.until_s[name] = self._clock.monotonic_s() + BREAKER_OPEN_S
        self._table.probes.pop(name, None)
        self._tell_others(name, BREAKER_OPEN_S)

    def closed(self, name: str) -> None:
        self._table.until_s.pop(name, None)
        self._table.probes.pop(name, None)
        self._tell_others(name, None)

    def released(self, name: str) -> None:
        if name in self._table.probes and self._table.probes[name][0] is self:
            del self._table.probes[name]

    async def probe(self, name: str) -> float:
        now_s = self._clock.monotonic_s()
        wait_s = self._table.until_s.get(name, now_s) - now_s
        prober, until_s = self._table.probes.get(name, (self, 0.0))
        if wait_s <= 0 and prober is not self and until_s > now_s:
            wait_s = min(BREAKER_ASK_AGAIN_S, until_s - now_s)
        if wait_s <= 0:
            self._table.probes[name] = (self, now_s + BREAKER_PROBE_S)
        return max(0.0, wait_s)

    def _tell_others(self, name: str, left_s: float | None) -> None:
        for peers, told in self._table.told.get(name, ()):
            if peers is not self:
                told(left_s)


class BreakerTable:
    """What the breakers of one process share."""

    def __init__(self) -> None:
        self.until_s: dict[str, float] = {}
        self.probes: dict[str, tuple[LocalBreakers, float]] = {}
        self.told: dict[str, list[tuple[LocalBreakers, Told]]] = {}
