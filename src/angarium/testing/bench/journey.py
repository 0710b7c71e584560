"""`journey`: from a person's `send` to the agent's sealed answer, through the whole product.

    person -> seal -> relay -> gateway -> function agent -> sealed parts and reply -> person

A real `angarium serve` in a child process runs an agent that streams: its first piece at
once, the rest when the loop comes round. The people are SDK clients in this process, each with
keys, history and a durable store of its own, so the times hold their work too. First two of
them alone (latency), then all of them (throughput), each sending its next message when it has
its answer.

The first part counts from the call of `send` to the first streamed part of that answer; where
no part came, which is allowed since parts may be lost, to the final message. CPU seconds are
the node's, read from the kernel, not the clients'.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from angarium.errors import AngariumError, Unavailable
from angarium.sdk.client import Client, Conversation, Message
from angarium.server.auth import mint_token
from angarium.testing.bench import UNLIMITED_PER_MINUTE, BenchOptions, percentile
from angarium.testing.process import ServedNode

CLIENTS = 16
QUIET_CLIENTS = 2
ANSWER_WAIT_S = 30.0
QUESTION = "Where is my parcel, and when will it be here?"
AGENT = """
import asyncio

from angarium import Agent

agent = Agent("bench", "Answers at once, in pieces", on_busy="enqueue")


@agent.on_turn
async def answer(turn):
    yield "Let me look. "
    await asyncio.sleep(0)
    for word in ("It left the depot this morning. ", "You will have it today, ", "before six."):
        yield word
"""
ANSWER = "Let me look. It left the depot this morning. You will have it today, before six."


async def measure(options: BenchOptions) -> dict[str, float]:
    """Two clients: first_part_p50_ms, first_part_p99_ms, reply_p50_ms, commits_per_journey;
    sixteen: per_cpu_s, journeys_per_s, loaded_first_part_p50_ms.

    Raises Unavailable for an answer that is wrong or does not come.
    """
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="angarium-bench-"))
        folder = Path(name)
        (folder / "agent.py").write_text(AGENT)
        settings = {
            "agents": str(folder / "agent.py"),
            "rate_per_minute": str(UNLIMITED_PER_MINUTE),
            "log_level": "warning",
        }
        node = ServedNode(folder / "node", settings=settings, services="messaging gateway")
        await stack.enter_async_context(node)
        people = [await _enter(stack, node, number, options) for number in range(CLIENTS)]
        await _talk(people, min(1.0, options.seconds))  # Warm-up, not counted.
        options.progress("two people talk", 0.3)
        commits = await node.metric("store_commits")
        quiet = await _talk(people[:QUIET_CLIENTS], options.seconds)
        commits = await node.metric("store_commits") - commits
        options.progress("everybody talks", 0.65)
        cpu_s = node.cpu_s()
        busy = await _talk(people, options.seconds)
        cpu_s = max(node.cpu_s() - cpu_s, 0.01)
    return {
        "first_part_p50_ms": percentile(quiet.first_parts_ms, 0.50),
        "first_part_p99_ms": percentile(quiet.first_parts_ms, 0.99),
        "reply_p50_ms": percentile(quiet.replies_ms, 0.50),
        "commits_per_journey": commits / max(len(quiet.replies_ms), 1),
        "per_cpu_s": len(busy.replies_ms) / cpu_s,
        "journeys_per_s": len(busy.replies_ms) / busy.took_s,
        "loaded_first_part_p50_ms": percentile(busy.first_parts_ms, 0.50),
    }


@dataclass(slots=True)
class Times:
    """Of finished journeys, in milliseconds; `took_s` is the whole phase."""

    first_parts_ms: list[float] = field(default_factory=list)
    replies_ms: list[float] = field(default_factory=list)
    took_s: float = 0.0


class Person:
    """One client in a conversation with the agents."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._answers = talk.stream()

    async def ask_until(self, end_s: float, times: Times) -> None:
        """Ask, read the whole answer, ask again."""
        while time.perf_counter() < end_s:
            await self.ask(times)

    async def ask(self, times: Times) -> None:
        """Raises Unavailable for no answer or a wrong one, and what `send` raises."""
        started_s = time.perf_counter()
        first_s = 0.0
        key = await self._talk.send(QUESTION, wait=False)
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                async for item in self._answers:
                    first_s = first_s or time.perf_counter()
                    if isinstance(item, Message):
                        _check(item, str(key))
                        break
        except TimeoutError:
            raise Unavailable("no answer came in time") from None
        times.first_parts_ms.append((first_s - started_s) * 1000)
        times.replies_ms.append((time.perf_counter() - started_s) * 1000)

    async def close(self) -> None:
        await self._answers.aclose()


def _check(message: Message, key: str) -> None:
    if message.problem or message.text != ANSWER or message.body.ref != key:
        raise Unavailable(
            f"another answer came than was expected ({message.problem or 'text'})"
        )


async def _enter(
    stack: AsyncExitStack, node: ServedNode, number: int, options: BenchOptions
) -> Person:
    options.progress("enrolling devices", 0.25 * number / CLIENTS)
    user = f"@bench{number}:angarium"
    client = Client(
        node.http_url,
        user=user,
        token=mint_token(node.folder, user),
        folder=node.folder.parent / f"person{number}",
    )
    await stack.enter_async_context(client)
    person = Person(await client.converse(client.gateway))
    stack.push_async_callback(person.close)
    return person


async def _talk(people: Sequence[Person], seconds: float) -> Times:
    times = Times()
    started_s = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(person.ask_until(started_s + seconds, times))
    except* AngariumError as errors:
        raise errors.exceptions[0] from None
    times.took_s = time.perf_counter() - started_s
    return times
