"""One attempt of an agent: at work in a task of its own, and watched by the lane's."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from angarium.agents.contract import Terms
from angarium.agents.guard import BROKEN, SILENT, STALLED, TIMED_OUT, Trouble
from angarium.agents.ledger import Question
from angarium.agents.records import OpenTurn
from angarium.e2ee.body import FileRef
from angarium.limits import (
    AGENT_STOP_S,
    BURST_QUIET_S,
    TURN_RETRY_MAX_S,
    TURN_RETRY_MIN_S,
)
from angarium.storage.contract import Write


@dataclass(frozen=True, slots=True)
class Phases:
    """How long an agent may take (seconds): to give a first sign of life, between two of them,
    and in all."""

    first_event_s: float
    quiet_s: float
    turn_s: float


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait. What is None is for the agent's own terms to say. `burst_quiet_s`: how
    long a person who writes in pieces must be quiet before the answer to all is begun."""

    first_event_s: float | None = None
    quiet_s: float | None = None
    turn_s: float | None = None
    retry_min_s: float = TURN_RETRY_MIN_S
    retry_max_s: float = TURN_RETRY_MAX_S
    burst_quiet_s: float = BURST_QUIET_S

    def pause_s(self, attempts: int, asked_s: float = 0.0) -> float:
        """Before the attempt after the `attempts`-th: doubling, at least what was asked for,
        bounded."""
        return min(max(asked_s, self.retry_min_s * 2.0 ** (attempts - 1)), self.retry_max_s)

    def phases(self, terms: Terms) -> Phases:
        """How long a turn of an agent with these terms may take."""
        return Phases(
            terms.first_event_s if self.first_event_s is None else self.first_event_s,
            terms.quiet_s if self.quiet_s is None else self.quiet_s,
            terms.timeout_s if self.turn_s is None else self.turn_s,
        )


@dataclass(frozen=True, slots=True)
class Answered:
    text: str
    also: tuple[Write, ...]
    files: tuple[FileRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    question: Question


@dataclass(frozen=True, slots=True)
class Passed:
    to: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    trouble: Trouble
    after_s: float = 0.0  # What the other side asks to be left alone.


@dataclass(frozen=True, slots=True)
class Joined:
    """Messages that came meanwhile belong to this turn; it begins again with all of them."""

    newcomers: tuple[OpenTurn, ...]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody wants no answer: `by` is the message that says so, None an operator; it asks
    to be answered itself unless it is a `/stop`."""

    by: OpenTurn | None
    reason: str


Outcome = Answered | Asked | Passed | Failed | Joined | Stopped


class Attempt:
    """Lives inside a running loop: `start` it, `wait` until something stirs, look, `stop` it.

    `fixed`: something was said, or done that has an effect; it cannot begin anew unnoticed.
    """

    def __init__(self, phases: Phases) -> None:
        self._loop = asyncio.get_running_loop()
        self._phases = phases
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[Outcome] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._end_s = self._quiet_end_s = 0.0
        self._quiet_trouble = SILENT
        self._tools_running = 0
        self._ended_late: Trouble | None = None
        self._stopping = False
        self.fixed = False

    # --- for whoever watches ------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, Outcome]) -> None:
        """Let the agent work. `work` raises nothing but CancelledError."""
        self._task = self._loop.create_task(work, name="agent turn")
        self._task.add_done_callback(lambda _: self._stirred.set())

    def stir(self) -> None:
        """There is something to look at."""
        self._stirred.set()

    async def wait(self) -> None:
        """Until the agent has ended, is late, or somebody stirs."""
        await self._stirred.wait()
        self._stirred.clear()

    @property
    def outcome(self) -> Outcome | None:
        """What came of it, once the agent has ended by itself."""
        task = self._task
        if task is None or not task.done() or self._stopping:
            return None
        return Failed(BROKEN) if task.cancelled() else task.result()

    @property
    def late(self) -> Trouble | None:
        """Which phase took too long, if one did."""
        return self._ended_late

    async def stop(self, why: str = "") -> asyncio.Task[Outcome] | None:
        """End it and let it clean up, for AGENT_STOP_S at most; returns its task when it still
        has not ended then. An agent that has ended by itself keeps its outcome. `why` is the
        message of the cancellation, STOPPING where the turn goes on elsewhere."""
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        if task is None or task.done():
            return None
        self._stopping = True
        task.cancel(why)
        await asyncio.wait({task}, timeout=AGENT_STOP_S)
        return None if task.done() else task

    # --- for the agent's side -----------------------------------------------------------------

    def begin(self) -> None:
        """The agent has its place; from here on its time runs."""
        now_s = self._loop.time()
        self._end_s = now_s + self._phases.turn_s
        self._quiet_end_s = now_s + self._phases.first_event_s
        self._arm()

    def alive(self) -> None:
        """It gave a sign of life."""
        self._quiet_end_s = self._loop.time() + self._phases.quiet_s
        if self._quiet_trouble is SILENT:
            self._quiet_trouble = STALLED
            self._arm()

    @contextmanager
    def using_tool(self) -> Iterator[None]:
        """It waits for a tool; only the time of the whole turn runs meanwhile."""
        self.alive()
        self._tools_running += 1
        try:
            yield
        finally:
            self._tools_running -= 1
            self.alive()
            self._arm()

    def _due(self) -> tuple[float, Trouble]:
        quiet = (self._quiet_end_s, self._quiet_trouble)
        if self._tools_running or self._end_s <= self._quiet_end_s:
            return self._end_s, TIMED_OUT
        return quiet

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._stopping else self._loop.call_at(self._due()[0], self._ring)

    def _ring(self) -> None:
        due_s, trouble = self._due()
        if self._loop.time() < due_s:
            self._arm()  # It has given signs of life since.
        else:
            self._ended_late = trouble
            self._stirred.set()
