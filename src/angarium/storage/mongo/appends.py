"""Group append: runs of many conversations at once, one run of a conversation at a time.

One insert makes message, key and sequence atomic, and the unique indexes decide who gets a
sequence. Inside a conversation inserts are ordered, so what is stored is always a prefix;
single messages of many conversations share one unordered insert. No timer sizes a group.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from angarium.clock import Clock
from angarium.errors import AngariumError, Busy, NotFound, Unavailable
from angarium.ids import ConversationId, DeviceId
from angarium.limits import (
    APPEND_BATCH_MESSAGES,
    APPEND_QUEUE_MESSAGES,
    MONGO_RACE_MAX_S,
    MONGO_RACE_S,
    MONGO_RACES_AT_ONCE,
    MONGO_RACES_MAX,
    MONGO_ROUNDS_AT_ONCE,
    MONGO_TURNS_WAITED_MAX,
)
from angarium.model.message import AppendResult, NewMessage, NotAccepted
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.heads import Heads
from angarium.storage.mongo.inserts import Attempt, insert
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.marks import Marks
from angarium.storage.mongo.placing import Earlier, Known, Place, Run, odd_devices, plan, settle
from angarium.storage.mongo.turns import Ids


@dataclass(slots=True)
class Tally:
    """Figures since opening, for metrics."""

    rounds: int = 0
    runs: int = 0
    messages: int = 0
    races_lost: int = 0
    failures: int = 0


@dataclass(slots=True)
class _Part:
    """What one caller wants of one conversation."""

    messages: list[NewMessage]
    waiter: asyncio.Future[list[AppendResult]]


@dataclass(slots=True)
class _Lane:
    """A conversation's queue in this process."""

    waiting: deque[_Part] = field(default_factory=deque)
    busy: bool = False


class Appends:
    """Places messages. Raises Busy when too many wait; everything else is a result."""

    def __init__(
        self,
        link: Link,
        clock: Clock,
        heads: Heads,
        marks: Marks,
        ids: Ids,
        guards: Guards = ALL_GUARDS,
    ) -> None:
        self._link, self._clock, self._guards = link, clock, guards
        self._heads, self._marks = heads, marks
        self._ids = ids
        self._lanes: dict[ConversationId, _Lane] = {}
        self._ready: deque[ConversationId] = deque()
        self._rounds = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pumping = False
        self.tally = Tally()
        self.waiting = 0
        self.closing = False

    async def append(self, batch: Sequence[NewMessage]) -> list[AppendResult]:
        """Results in the order of the batch. Messages of one conversation keep their order."""
        if self.closing:
            raise Unavailable("the store is closed")
        if self.waiting + len(batch) > max(APPEND_QUEUE_MESSAGES, len(batch)):
            raise Busy("too many messages wait for the store", after_ms=200)
        places: dict[ConversationId, list[int]] = {}
        for position, message in enumerate(batch):
            places.setdefault(message.conversation, []).append(position)
        loop = asyncio.get_running_loop()
        parts = [
            _Part([batch[n] for n in each], loop.create_future()) for each in places.values()
        ]
        for name, part in zip(places, parts, strict=True):
            self._enqueue(name, part)
        results: list[AppendResult] = [NotAccepted(Unavailable())] * len(batch)
        # A caller that is cancelled leaves its parts: a run is never torn.
        for part, each in zip(parts, places.values(), strict=True):
            for position, result in zip(each, await part.waiter, strict=True):
                results[position] = result
        return results

    async def close(self) -> None:
        """Take nothing new and finish what waits."""
        self.closing = True
        while self._tasks or self._ready:
            self._pump()
            if self._tasks:
                await asyncio.wait(self._tasks)

    # --- who is next ---

    def _enqueue(self, name: ConversationId, part: _Part) -> None:
        self.waiting += len(part.messages)
        lane = self._lanes.setdefault(name, _Lane())
        lane.waiting.append(part)
        if len(lane.waiting) == 1 and not lane.busy:
            self._ready.append(name)
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        while self._ready and self._rounds < MONGO_ROUNDS_AT_ONCE:
            taken: list[tuple[Run, list[_Part]]] = []
            room = APPEND_BATCH_MESSAGES
            while self._ready and room > 0:
                name = self._ready.popleft()
                parts = self._take(self._lanes[name], room)
                messages = [message for part in parts for message in part.messages]
                run = Run(name, messages, self._ids.make)
                room -= len(run.messages)
                taken.append((run, parts))
            self._rounds += 1
            self._own(self._round(taken))

    def _take(self, lane: _Lane, room: int) -> list[_Part]:
        lane.busy = True
        parts = [lane.waiting.popleft()]
        room -= len(parts[0].messages)
        while lane.waiting and len(lane.waiting[0].messages) <= room:
            parts.append(lane.waiting.popleft())
            room -= len(parts[-1].messages)
        return parts

    def _release(self, name: ConversationId) -> None:
        lane = self._lanes[name]
        lane.busy = False
        if lane.waiting:
            self._ready.append(name)
        else:
            del self._lanes[name]
        self._pump()

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- a round ---

    async def _round(self, taken: list[tuple[Run, list[_Part]]]) -> None:
        self.tally.rounds += 1
        self.tally.runs += len(taken)
        now_s = asyncio.get_running_loop().time
        deadline_s = now_s() + self._link.call_s
        open_, pause_s, took_s = taken, MONGO_RACE_S, 0.0
        for attempt in range(MONGO_RACES_MAX):
            began_s = now_s()
            await self._attempt([run for run, _ in open_], deadline_s)
            took_s = now_s() - began_s
            for run, parts in open_:
                if run.done:
                    self._end(run, parts, took_s)
            open_ = [(run, parts) for run, parts in open_ if not run.done]
            if not open_ or now_s() + pause_s >= deadline_s:
                break
            # A race lost once is tried again at once: winners wait, or they would always win.
            if attempt >= MONGO_RACES_AT_ONCE or any(r.state == "unsure" for r, _ in open_):
                await asyncio.sleep(pause_s * self._link.jitter())
                pause_s = min(MONGO_RACE_MAX_S, pause_s * 2)
        for run, parts in open_:
            run.refuse(NotAccepted(Unavailable("no free sequence was found", after_ms=200)))
            self._end(run, parts, took_s)
        self._rounds -= 1
        self._pump()

    def _end(self, run: Run, parts: list[_Part], took_s: float) -> None:
        """The next run of the conversation begins while this one's head is being marked."""
        self._own(self._finish(run, parts))
        known = self._heads.peek(run.conversation)
        if known is not None and run.top:
            known.ring.wrote(took_s)
        self._admit(run.conversation)

    def _admit(self, name: ConversationId) -> None:
        """The conversation may join a round: at once, or when its turn comes."""
        known = self._heads.peek(name)
        now_s = asyncio.get_running_loop().time()
        pause_s = known.ring.pause_s(now_s) if known is not None else 0.0
        if known is not None and pause_s:
            self._lanes[name].busy = True
            self._own(self._await_turn(name, known, pause_s))
        else:
            self._release(name)

    async def _await_turn(self, name: ConversationId, known: Known, pause_s: float) -> None:
        """While other nodes write here, to look first is cheaper than to lose first."""
        now_s = asyncio.get_running_loop().time
        for _ in range(MONGO_TURNS_WAITED_MAX):
            head = known.head
            known.ring.moved.clear()
            with suppress(TimeoutError):  # The bus tells as soon as others have written.
                async with asyncio.timeout(pause_s):
                    await known.ring.moved.wait()
            if not self._lanes[name].waiting:
                break
            if known.head == head:
                with suppress(AngariumError):  # Whoever appends then meets it again.
                    await self._heads.newer(name, known)
            pause_s = known.ring.pause_s(now_s())
            if not pause_s:
                break
        self._release(name)

    async def _finish(self, run: Run, parts: list[_Part]) -> None:
        """Raise the head the conversation names, then tell the callers."""
        results: list[AppendResult] = [each for each in run.results if each is not None]
        try:
            await self._cover(run)
        except Exception as error:
            results = [NotAccepted(_known_error(error))] * len(run.messages)
        self.tally.messages += len(results)
        start = 0
        for part in parts:
            self.waiting -= len(part.messages)
            if not part.waiter.done():
                part.waiter.set_result(results[start : start + len(part.messages)])
            start += len(part.messages)

    async def _cover(self, run: Run) -> None:
        top = run.top
        if not top:
            return
        known = (await self._heads.load([run.conversation]))[run.conversation]
        if top > known.mark:
            await self._marks.cover(run.conversation, top)
            known.mark = max(known.mark, top)

    async def _attempt(self, runs: list[Run], deadline_s: float) -> None:
        try:
            loaded = await self._heads.load(run.conversation for run in runs)
        except AngariumError as error:
            for run in runs:
                run.refuse(NotAccepted(error))
            return
        for run in runs:
            if run.conversation not in loaded:
                run.refuse(NotAccepted(NotFound("no such conversation")))
        live = [(run, loaded[run.conversation]) for run in runs if not run.done]
        looked = await asyncio.gather(
            *(self._look(run, known) for run, known in live), return_exceptions=True
        )
        attempts = []
        for (run, known), found in zip(live, looked, strict=True):
            if isinstance(found, BaseException):
                # Nothing could be read, or a value that cannot be stored: it fails alone.
                run.refuse(NotAccepted(_known_error(found)))
            else:
                run.planned_at = known.head
                rows = plan(run, known, found, self._clock.now_ms(), guards=self._guards)
                attempts.append(Attempt(run, known, rows))
        left_s = deadline_s - asyncio.get_running_loop().time()
        await insert(self._link["messages"], attempts, left_s)
        for each in attempts:
            settle(each.run, each.known, each.rows, each.stored)
            each.run.state = "unsure" if each.unsure else "raced"
            if each.error is not None:
                self.tally.failures += 1
                each.run.refuse(NotAccepted(each.error))
            elif not each.run.done:
                self.tally.races_lost += 1

    async def _look(self, run: Run, known: Known) -> dict[Place, Earlier]:
        """Read what the plan needs: nothing when every message is simply the next one."""
        name, first = run.conversation, {m.device: m.cs for m in reversed(run.open)}
        found: dict[Place, Earlier] = {}
        suspects: set[DeviceId] = set()
        # A head that rose meanwhile (the bus told) explains the lost race.
        raced = run.state == "raced" and run.planned_at == known.head
        if raced:
            found = await self._heads.newer(name, known)
            if not found:
                # Nobody was met at the first sequence: at a key or a counter then, or what was
                # met is not held by a majority yet.
                met = run.open[0]
                found = await self._heads.earlier(name, met.device, [met.key])
                suspects = {met.device}
        if run.state == "unsure" or (raced and not found):
            head = known.head
            await self._heads.refresh(name, known)
            if run.state == "unsure" or known.head > head:
                suspects = set(first)
        await asyncio.gather(
            *(
                self._heads.count(name, known, device, first[device])
                for device in suspects | odd_devices(known, run.open)
            )
        )
        suspects |= odd_devices(known, run.open)
        for each in await asyncio.gather(
            *(
                self._heads.earlier(name, dev, [m.key for m in run.open if m.device == dev])
                for dev in suspects
            )
        ):
            found.update(each)
        return found


def _known_error(error: BaseException) -> AngariumError:
    return error if isinstance(error, AngariumError) else Unavailable("the append failed")
