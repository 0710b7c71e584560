"""Work of one conversation in order, of many conversations at once, in bounded memory."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from angarium.ids import ConversationId
from angarium.limits import TURNS_AT_ONCE, TURNS_HELD_MAX

Work = Callable[[ConversationId, int], Awaitable[None]]


class Lanes:
    """Runs `work(conversation, sequence)`: one at a time per conversation, in the order woken.

    At most `at_once` tasks work, none for an idle conversation; those `aside` only wait. At
    most `held_max` sequences wait in memory; beyond that they are dropped here, because the
    store has them, and `refill` is called when the lanes have emptied. `work` must not raise
    anything but CancelledError.
    """

    def __init__(
        self,
        work: Work,
        *,
        refill: Callable[[], Awaitable[None]],
        at_once: int = TURNS_AT_ONCE,
        held_max: int = TURNS_HELD_MAX,
    ) -> None:
        self._work, self._refill = work, refill
        self._at_once, self._held_max = at_once, held_max
        self._lanes: dict[ConversationId, deque[int]] = {}
        self._ready: deque[ConversationId] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = self._aside = 0
        self._overflowed = False
        self._open = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def held(self) -> int:
        """How many sequences wait, the ones being worked on included."""
        return self._held

    @property
    def running(self) -> int:
        return len(self._tasks)

    def behind(self, conversation: ConversationId) -> Sequence[int]:
        """What waits in the conversation after the sequence being worked on."""
        return tuple(self._lanes.get(conversation, ()))[1:]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is being worked on only waits, and does not count among `at_once` meanwhile."""
        self._aside += 1
        self._spawn()
        try:
            yield
        finally:
            self._aside -= 1

    def wake(self, conversation: ConversationId, sequence: int) -> None:
        """There is work. Waking the same sequence again while it waits changes nothing."""
        lane = self._lanes.get(conversation)
        if lane is not None and sequence in lane:
            return
        if self._held >= self._held_max or (self._overflowed and self._held):
            # Later work of a lane must not overtake what was dropped before it.
            self._overflowed = True
            return
        self._held += 1
        self._idle.clear()
        if lane is None:
            self._lanes[conversation] = deque([sequence])
            self._ready.append(conversation)
            self._spawn()
        else:
            lane.append(sequence)

    def open(self) -> None:
        """Start working; what was woken before waits until here."""
        self._open = True
        for _ in range(min(len(self._ready), self._at_once)):
            self._spawn()

    def halt(self) -> None:
        """Start nothing more; what runs goes on."""
        self._open = False

    async def idle(self) -> None:
        """Wait until nothing waits or runs."""
        await self._idle.wait()

    async def close(self, grace_s: float = 0.0) -> None:
        """Stop starting work, give what runs `grace_s`, then cancel it."""
        self.halt()
        tasks = set(self._tasks)
        if tasks and grace_s > 0:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _busy(self) -> int:
        return len(self._tasks) - self._aside

    def _spawn(self) -> None:
        if self._open and self._ready and self._busy < self._at_once:
            task = asyncio.get_running_loop().create_task(self._run(), name="agent lane")
            self._tasks.add(task)

    async def _run(self) -> None:
        try:
            # Over the bound, when some that waited aside go on: the others end.
            while self._ready and self._open and self._busy <= self._at_once:
                await self._work_once(self._ready.popleft())
        finally:
            # Here and not in a done callback, which runs a tick later: a wake in between would
            # count this task and start none.
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)

    async def _work_once(self, conversation: ConversationId) -> None:
        lane = self._lanes[conversation]
        await self._work(conversation, lane[0])
        lane.popleft()
        self._held -= 1
        if lane:
            self._ready.append(conversation)
        else:
            del self._lanes[conversation]
        if self._held == 0:
            await self._on_empty()

    async def _on_empty(self) -> None:
        if self._overflowed:
            self._overflowed = False
            await self._refill()
        if self._held == 0:
            self._idle.set()
