"""`resilience`: what guarding a call to an agent costs, and what others notice of a bad agent.

`overhead_us` is a turn's events through the ward (place, breaker, retry, bounds) less the same
events without it, alternating in one run. Then messages of many people go to a good agent at a
steady rate, in alternating spells alone and beside an agent in trouble, through a whole gateway
on the embedded store; the others' times are told for both.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.contract import AgentEvent, Done, Text, Turn
from angarium.agents.ward import Ward
from angarium.clock import SystemClock
from angarium.ids import ConversationId
from angarium.testing.agents import AgentWorld
from angarium.testing.bench import BenchOptions, percentile
from angarium.testing.fakes import Sent

CALLS_AT_ONCE = 500
OTHERS_PER_S = 100
TROUBLED_PER_S = 20
SPELLS = 6  # Of each kind, by turns.
HANG_S = 0.5
PATIENCE = Patience(retry_min_s=0.05, retry_max_s=0.05)  # So that spells end soon.


async def measure(options: BenchOptions) -> dict[str, float]:
    """overhead_us, and for each trouble others_{alone,beside}_{p50,p99}_ms."""
    logging.getLogger("angarium.agents").setLevel(logging.CRITICAL)  # Of troubles made here.
    figures = {"overhead_us": await _overhead_us(options)}
    for share, (name, trouble) in enumerate(TROUBLES.items()):
        options.progress(f"beside an agent that {name}", (share + 1) / (len(TROUBLES) + 1))
        figures |= await _others(name, trouble, options)
    return figures


async def _overhead_us(options: BenchOptions) -> float:
    agent, ward = Agent("quick", "quick"), Ward(SystemClock())

    async def events() -> AsyncIterator[AgentEvent]:
        yield Text("hello")
        yield Done()

    async def bare() -> None:
        stream: Any = events()
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, Done):
                    break

    async def guarded() -> None:
        async with ward.place(agent), aclosing(ward.run(agent, events)) as stream:
            async for _ in stream:
                pass

    spent_s = {bare: 0.0, guarded: 0.0}
    calls, end_s = 0, time.perf_counter() + min(2.0, options.seconds)
    while time.perf_counter() < end_s:
        for call in (bare, guarded):
            began_s = time.process_time()
            for _ in range(CALLS_AT_ONCE):
                await call()
            spent_s[call] += time.process_time() - began_s
        calls += CALLS_AT_ONCE
    return (spent_s[guarded] - spent_s[bare]) / calls * 1e6


# --- troubles -------------------------------------------------------------------------------


async def _hangs(turn: Turn) -> str:
    await asyncio.sleep(HANG_S)
    return "at last"


async def _floods(turn: Turn) -> AsyncIterator[str]:
    for _ in range(5_000):
        yield "and more "


async def _fails(turn: Turn) -> str:
    raise ConnectionError


async def _talks_garbage(turn: Turn) -> AsyncIterator[Any]:
    yield "\ud800" * 1000
    yield b"\xff"


TROUBLES: dict[str, Callable[[Turn], Any]] = {
    "hangs": _hangs, "floods": _floods, "fails": _fails, "garbage": _talks_garbage,
}  # fmt: skip


async def _echo(turn: Turn) -> str:
    return turn.text


class Others:
    """People who write to the good agent; each in a conversation of their own."""

    def __init__(self, world: AgentWorld) -> None:
        self._world, self._numbers = world, itertools.count(1)
        self._began_s: dict[str, float] = {}
        self.spell = "alone"
        self.times_ms: dict[str, list[float]] = {"alone": [], "beside": []}

    def answered(self, sent: Sent) -> None:
        began_s = self._began_s.pop(sent.conversation, None)
        if began_s is not None and sent.body.ref:
            self.times_ms[self.spell].append((time.perf_counter() - began_s) * 1000)

    async def write(self, seconds: float) -> None:
        """At OTHERS_PER_S for so long, then wait for the rest of the answers."""
        loop = asyncio.get_running_loop()
        start_s, count = loop.time(), 0
        async with asyncio.TaskGroup() as writing:
            while (due_s := count / OTHERS_PER_S) < seconds:
                await asyncio.sleep(max(0.0, start_s + due_s - loop.time()))
                writing.create_task(self._write_one())
                count += 1
        while self._began_s:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)

    async def _write_one(self) -> None:
        place = ConversationId(f"01999999-0000-7000-8000-{next(self._numbers):012d}")
        received = self._world.write_message("@good hello", conversation=place)
        self._began_s[place] = time.perf_counter()
        await self._world.endpoint.receive(received)


async def _others(
    name: str, trouble: Callable[[Turn], Any], options: BenchOptions
) -> dict[str, float]:
    good, bad = Agent("good", "good"), Agent("bad", "bad")
    good.on_turn(_echo)
    bad.on_turn(trouble)
    async with AsyncExitStack() as parts:
        world = await parts.enter_async_context(made_world(good, bad))
        others = Others(world)
        world.relay.on_append = others.answered
        await others.write(0.2)  # Warm-up, not counted.
        others.times_ms["alone"].clear()
        for _ in range(SPELLS):
            for others.spell in ("alone", "beside"):
                beside = asyncio.create_task(_keep_asking(world, others.spell == "beside"))
                await others.write(options.seconds / SPELLS / 4)
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)
                await world.gateway.idle()  # So that nothing of it is left when they are alone.
    return {
        f"{name}_others_{spell}_{'p50' if share == 0.5 else 'p99'}_ms": percentile(times, share)
        for spell, times in others.times_ms.items()
        for share in (0.5, 0.99)
    }


def made_world(*agents: Agent) -> AgentWorld:
    return AgentWorld(agents, turns_at_once=256, patience=PATIENCE)


async def _keep_asking(world: AgentWorld, asks: bool) -> None:
    """TROUBLED_PER_S new turns of the agent in trouble."""
    numbers = itertools.count(500_000 + len(world.relay.log))
    while asks:
        place = ConversationId(f"01999999-0000-7000-8000-{next(numbers):012d}")
        await world.endpoint.receive(world.write_message("@bad hello", conversation=place))
        await asyncio.sleep(1 / TROUBLED_PER_S)
