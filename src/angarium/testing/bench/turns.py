"""`turns`: what the gateway adds to an agent that costs nothing.

A function agent that returns at once, the whole gateway (turn record, routing, memory, attempt,
reply) on the embedded store with its files and its commits; the relay and the device's
encryption are left out (`journey` has them). The time of a turn counts from the message handed
to the gateway until the reply is durable and has left.

First one turn after the other (`overhead_*`), then 64 conversations at once (`turns_per_s`, and
per second of this process's CPU). Then 500 turns whose agent thinks for a second start
together: `at_once_max` is how many thought at the same time, `at_once_over_p99_ms` how much
longer than that second they took, `at_once_kb` what each held in memory meanwhile.
"""

import asyncio
import itertools
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from angarium.adapters.store import OpenedStore
from angarium.agents.agent import Agent
from angarium.agents.contract import Turn
from angarium.clock import ManualClock
from angarium.ids import ConversationId
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.agents import AgentWorld
from angarium.testing.bench import BenchOptions, percentile
from angarium.testing.fakes import Sent

TALKS = 64
AT_ONCE = 500
THINKS_S = 1.0
WARM_UP = 50


async def measure(options: BenchOptions) -> dict[str, float]:
    """overhead_p50_ms, overhead_p99_ms, turns_per_s, turns_per_cpu_s, at_once_*."""
    async with AsyncExitStack() as parts:
        folder = parts.enter_context(tempfile.TemporaryDirectory(prefix="angarium-bench-"))
        thinking = Thinking()
        world = await parts.enter_async_context(
            AgentWorld(
                [_quick(), thinking.agent()],
                turns_at_once=2 * AT_ONCE,
                open_store=lambda clock: _on_disk(Path(folder), clock),
            )
        )
        people = People(world)
        await people.keep_writing([people.talk()], end_count=WARM_UP)
        options.progress("one turn after the other", 0.1)
        alone = await people.keep_writing([people.talk()], seconds=options.seconds / 2)
        options.progress(f"{TALKS} conversations", 0.5)
        talks = [people.talk() for _ in range(TALKS)]
        began_s, cpu_s = time.perf_counter(), time.process_time()
        count = len(await people.keep_writing(talks, seconds=options.seconds / 2))
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        options.progress(f"{AT_ONCE} turns at once", 0.9)
        held_kb = _memory_kb()
        over_ms = await people.write_together()
        return {
            "overhead_p50_ms": percentile(alone, 0.5),
            "overhead_p99_ms": percentile(alone, 0.99),
            "turns_per_s": count / wall_s,
            "turns_per_cpu_s": count / cpu_s,
            "at_once_max": thinking.most,
            "at_once_over_p99_ms": percentile(over_ms, 0.99),
            "at_once_kb": (_memory_kb() - held_kb) / AT_ONCE,
        }


def _quick() -> Agent:
    agent = Agent("quick", "Answers at once")

    @agent.on_turn
    async def answer(turn: Turn) -> str:
        return "You will have it today, before six."

    return agent


class Thinking:
    """An agent that takes its time, and counts how many do so at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def agent(self) -> Agent:
        agent = Agent("thinking", "Takes a second")

        @agent.on_turn
        async def answer(turn: Turn) -> str:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(THINKS_S)
            self.now -= 1
            return "I have thought about it."

        return agent


class People:
    """Who write, wait for the answer, and write again."""

    def __init__(self, world: AgentWorld) -> None:
        self._world, self._numbers = world, itertools.count(1)
        self._waiting: dict[str, asyncio.Future[float]] = {}
        world.relay.on_append = self._answered

    def talk(self) -> ConversationId:
        return ConversationId(f"01999999-0000-7000-8000-{next(self._numbers):012d}")

    def _answered(self, sent: Sent) -> None:
        waiting = self._waiting.pop(sent.conversation, None) if sent.body.ref else None
        if waiting is not None:
            waiting.set_result(time.perf_counter())

    async def write(self, talk: ConversationId, text: str) -> float:
        """How long the answer took, in ms."""
        received = self._world.write_message(text, conversation=talk)
        answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[talk] = answered
        began_s = time.perf_counter()
        await self._world.endpoint.receive(received)
        return (await answered - began_s) * 1000

    async def keep_writing(
        self, talks: Sequence[ConversationId], seconds: float = 0.0, end_count: int = 0
    ) -> list[float]:
        """In each of `talks` one message after the other; their times in ms."""
        times_ms: list[float] = []
        end_s = time.perf_counter() + seconds

        async def keep(talk: ConversationId) -> None:
            while len(times_ms) < end_count or time.perf_counter() < end_s:
                times_ms.append(await self.write(talk, "Where is my parcel?"))

        async with asyncio.TaskGroup() as writing:
            for talk in talks:
                writing.create_task(keep(talk))
        return times_ms

    async def write_together(self) -> list[float]:
        """AT_ONCE people ask the thinking agent; how much longer than it thinks, in ms."""
        talks = [self.talk() for _ in range(AT_ONCE)]
        writing = [self.write(talk, "@thinking what do you think?") for talk in talks]
        return [took_ms - THINKS_S * 1000 for took_ms in await asyncio.gather(*writing)]


async def _on_disk(folder: Path, clock: ManualClock) -> OpenedStore:
    return await open_sqlite(folder, clock)


def _memory_kb() -> float:
    """The most this process has held so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
