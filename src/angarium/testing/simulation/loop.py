"""An event loop on virtual time: a year passes in no time, and a seed replays a run.

Nothing here waits, opens a socket or starts a thread. When no callback is ready the loop jumps
to the next timer. Everything that runs belongs to a `Process` (a node, a client, a gateway),
so that one of them can be killed at any await, its memory gone, while the others go on.
"""

import asyncio
import contextvars
import heapq
import random
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_MS = 1_790_000_000_000
STEPS_MAX = 3_000_000  # Turns of the loop in one run; over it: Stuck.


def dice(seed: int, name: str) -> random.Random:
    """Chance for one purpose: one purpose more or less leaves the others as they were."""
    return random.Random(f"{seed} {name}")  # noqa: S311 - must be repeatable, not secret


class Stuck(Exception):
    """Nothing is ready, no timer is set and the run is not over; or it never ends."""


class Process:
    """What dies together. `alive` turns false once, and nothing of it has an effect after."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.held: list[Any] = []  # Handles and calls that wait for the end of a pause.
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_death: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"Process({self.name})"


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar(
    "process", default=None
)


def current_process() -> Process | None:
    """The process that the running code belongs to."""
    return _process.get()


class _Jump:
    """Stands where a selector would: instead of waiting, time moves on."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck(self._loop.describe_tasks())
        self._loop.pass_time(timeout)
        return []


class VirtualLoop(BaseEventLoop):
    """`seed` other than None also shuffles which of several ready tasks runs first."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self._now_s = 0.0
        self._steps = 0
        self._clock_resolution = 1e-6
        self._selector = _Jump(self)
        self._shuffle = dice(seed, "loop") if seed is not None else None
        self._paused: set[Process] = set()
        self.unhandled: list[str] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._note_unhandled)

    def time(self) -> float:
        return self._now_s

    def pass_time(self, seconds: float) -> None:
        self._now_s += seconds

    def start(
        self, process: Process, work: Coroutine[Any, Any, T], name: str = ""
    ) -> asyncio.Task[T]:
        """Run `work` as part of `process`, together with all that it starts."""
        context = contextvars.copy_context()
        context.run(_process.set, process)
        return self.create_task(work, name=name or process.name, context=context)

    def enter(self, process: Process, call: Callable[[], Any]) -> None:
        """Make one synchronous call as part of `process`; a paused one makes it afterwards."""
        context = contextvars.Context()
        context.run(_process.set, process)
        if process.paused:
            process.held.append(asyncio.Handle(call, (), self, context))
        elif process.alive:
            context.run(call)

    def pause(self, process: Process) -> None:
        """Stop it where it stands, as SIGSTOP does; what it has sent goes on its way."""
        process.paused = True
        self._paused.add(process)
        scheduled = self._scheduled  # type: ignore[attr-defined]
        process.held += sorted(handle for handle in scheduled if _owner(handle) is process)
        scheduled[:] = [handle for handle in scheduled if _owner(handle) is not process]
        heapq.heapify(scheduled)

    def resume(self, process: Process) -> None:
        """Let it go on; its timers that are due fire now."""
        process.paused = False
        self._paused.discard(process)
        held, process.held = process.held, []
        for handle in held:
            if isinstance(handle, asyncio.TimerHandle):
                heapq.heappush(self._scheduled, handle)  # type: ignore[attr-defined]
            else:
                self._ready.append(handle)  # type: ignore[attr-defined]

    def kill(self, process: Process) -> None:
        """End it as kill -9 does: timers and callbacks are gone, tasks cannot act any more."""
        if not process.alive:
            return
        process.alive = False
        for handle in (*self._ready, *self._scheduled):  # type: ignore[attr-defined]
            if _owner(handle) is process and _task_of(handle) is None:
                handle.cancel()
        for handle in process.held:
            if _task_of(handle) is None:
                handle.cancel()
        if process.paused:
            self.resume(process)
        for task in tuple(process.tasks):
            task.cancel()
        for gone in process.on_death:
            gone()

    def describe_tasks(self) -> str:
        names = sorted(
            f"{task.get_name()} at {_place(task)}"
            for task in asyncio.all_tasks(self)
            if not task.done()
        )
        return "all wait and no timer is set: " + "; ".join(names[:12])

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("the simulation has no threads")

    def _make_task(self, loop: Any, work: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **named)
        context = named.get("context")
        process = context.get(_process) if context is not None else _process.get()
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard)
            if not process.alive:
                task.cancel()
        return task

    def _note_unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        process = _process.get()
        if process is not None and not process.alive:
            return
        self.unhandled.append(f"{context.get('message')}: {error!r}")

    def _run_once(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise Stuck(f"no end after {STEPS_MAX} turns of the loop")
        ready = self._ready  # type: ignore[attr-defined]
        if self._paused:
            _set_aside(ready)
        if self._shuffle is not None and len(ready) > 1:
            _shuffle_tasks(ready, self._shuffle)
        super()._run_once()  # type: ignore[misc]

    def _process_events(self, events: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run(seed: int | None, work: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `work(loop)` to its end on a loop of its own. Raises Stuck and what `work` raises."""
    loop = VirtualLoop(seed)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work(loop))
    finally:
        try:
            _end_tasks(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _set_aside(ready: Any) -> None:
    for _ in range(len(ready)):
        handle = ready.popleft()
        process = _owner(handle)
        (ready if process is None or not process.paused else process.held).append(handle)


def _shuffle_tasks(ready: Any, chance: random.Random) -> None:
    # Plain callbacks keep their order: asyncio promises it and programs rely on it. Which of
    # several ready tasks runs first is nobody's promise.
    places = [n for n, handle in enumerate(ready) if _task_of(handle) is not None]
    handles = [ready[n] for n in places]
    chance.shuffle(handles)
    for n, handle in zip(places, handles, strict=True):
        ready[n] = handle


def _end_tasks(loop: VirtualLoop) -> None:
    pending = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _owner(handle: Any) -> Process | None:
    context = getattr(handle, "_context", None)
    return None if context is None else context.get(_process)


def _task_of(handle: Any) -> asyncio.Task[Any] | None:
    owner = getattr(getattr(handle, "_callback", None), "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def _place(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[-1].f_code.co_name}:{frames[-1].f_lineno}" if frames else "?"


class LoopClock:
    """The loop's time as a `Clock`. `skew_ms` is how wrong this process's wall clock is; only
    durations are right."""

    def __init__(self, loop: VirtualLoop, skew_ms: int = 0) -> None:
        self._loop = loop
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return START_MS + round(self._loop.time() * 1000) + self.skew_ms

    def monotonic_s(self) -> float:
        return self._loop.time()
