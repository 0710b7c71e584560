"""`append`: how many messages a node stores durably, and how long an `ok` takes.

A real `angarium serve messaging` in a child process; devices with real keys; 64 connections
that keep eight 600-byte messages in flight each (throughput), then a steady rate far below
(latency). Every message is delivered to two devices, and acknowledged as the SDK does it, many
with one frame.

CPU seconds are the node's, read from the kernel, not this client's; how busy the client itself
was while it saturated the node is told too: near 100 it is what limits `durable_per_s`.
"""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from angarium.ids import uuid7
from angarium.limits import ACK_MESSAGES_MAX
from angarium.protocol.frames import Ack, Msg, Ok, Sealed, Send
from angarium.testing.bench import UNLIMITED_PER_MINUTE, BenchOptions, percentile
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import RawClient, enrol

PAIRS = 32
IN_FLIGHT = 8
CIPHERTEXT_BYTES = 600
STEADY_PER_S = 1000


async def measure(options: BenchOptions) -> dict[str, float]:
    """durable_per_s, durable_per_cpu_s, client_busy_percent, ack_p50_ms, ack_p99_ms."""
    settings = {"rate_per_minute": str(UNLIMITED_PER_MINUTE), "log_level": "warning"}
    with _folder() as folder:
        async with ServedNode(folder / "node", settings=settings, services="messaging") as node:
            writers = await _connect(node, options)
            try:
                await _saturate(writers, min(1.0, options.seconds))  # warm-up, not counted
                figures = await _throughput(node, writers, options)
                waits_ms = await _steady(writers, options)
            finally:
                for writer in writers:
                    await writer.client.close()
    return {
        **figures,
        "ack_p50_ms": percentile(waits_ms, 0.50),
        "ack_p99_ms": percentile(waits_ms, 0.99),
    }


class Writer:
    """One connection that appends to one conversation, counting its acknowledged messages."""

    def __init__(self, client: RawClient, conversation: str, to: list[str]) -> None:
        self.client = client
        self.acknowledged = 0
        self.waits_ms: list[float] = []
        self._conversation = conversation
        self._to = [Sealed(device, os.urandom(CIPHERTEXT_BYTES)) for device in to]
        self._counter = itertools.count(1)
        self._sent_at: dict[int, float] = {}
        self._newest = self._unacknowledged = 0
        self.refill = False

    def send(self, count: int) -> None:
        # Keys grow with time, as the product's do; one call of the random source for many.
        frames, key = [], uuid7(time.time_ns() // 1_000_000)[:-12]
        for _ in range(count):
            cs = next(self._counter)
            self._sent_at[cs] = time.perf_counter()
            frames.append(Send(cs, self._conversation, f"{key}{cs:012x}", cs, self._to))
        self.client.send(frames)

    def receive(self, frames: list[object]) -> None:
        oks = [frame for frame in frames if isinstance(frame, Ok)]
        now = time.perf_counter()
        self._acknowledge([frame for frame in frames if isinstance(frame, Msg)])
        for ok in oks:
            self.waits_ms.append((now - self._sent_at.pop(ok.id)) * 1000)
        self.acknowledged += len(oks)
        if self.refill and oks:
            self.send(len(oks))

    def _acknowledge(self, messages: list[Msg]) -> None:
        if messages:
            self._newest = messages[-1].s
            self._unacknowledged += len(messages)
        if self._unacknowledged >= ACK_MESSAGES_MAX:
            self._unacknowledged = 0
            self.client.send([Ack([(self._conversation, self._newest)])])

    @property
    def in_flight(self) -> int:
        return len(self._sent_at)


async def _connect(node: ServedNode, options: BenchOptions) -> list[Writer]:
    writers: list[Writer] = []
    for pair in range(PAIRS):
        options.progress("enrolling devices", 0.2 * pair / PAIRS)
        users = [f"@bench{pair}{side}:angarium" for side in "ab"]
        left, right = [await enrol(node, user) for user in users]
        conversation = await left.converse(users[1])
        for own, other in ((left, right), (right, left)):
            client = await RawClient.connect(node.websocket_url, own.device, own.token)
            writer = Writer(client, conversation, [other.device])
            client.automatic_acks = False
            client.on_frames = writer.receive
            writers.append(writer)
    return writers


async def _saturate(writers: list[Writer], seconds: float) -> int:
    before = sum(writer.acknowledged for writer in writers)
    for writer in writers:
        writer.refill = True
        writer.send(IN_FLIGHT)
    await asyncio.sleep(seconds)
    count = sum(writer.acknowledged for writer in writers) - before
    for writer in writers:
        writer.refill = False
    await _quiet(writers)
    return count


async def _throughput(
    node: ServedNode, writers: list[Writer], options: BenchOptions
) -> dict[str, float]:
    options.progress("appending as fast as it goes", 0.3)
    started_s, cpu_s, own_cpu_s = time.perf_counter(), node.cpu_s(), time.process_time()
    count = await _saturate(writers, options.seconds)
    took_s = time.perf_counter() - started_s
    return {
        "durable_per_s": count / took_s,
        "durable_per_cpu_s": count / max(node.cpu_s() - cpu_s, 0.01),
        "client_busy_percent": (time.process_time() - own_cpu_s) / took_s * 100,
    }


async def _steady(writers: list[Writer], options: BenchOptions) -> list[float]:
    options.progress(f"appending {STEADY_PER_S} a second", 0.7)
    for writer in writers:
        writer.waits_ms.clear()
    started, sent, turn = time.perf_counter(), 0, itertools.cycle(writers)
    while (elapsed := time.perf_counter() - started) < options.seconds:
        for _ in range(int(elapsed * STEADY_PER_S) - sent):
            writer = next(turn)
            if writer.in_flight < IN_FLIGHT:
                writer.send(1)
            sent += 1
        await asyncio.sleep(0.001)
    await _quiet(writers)
    return [wait for writer in writers for wait in writer.waits_ms]


async def _quiet(writers: list[Writer], wait_s: float = 10.0) -> None:
    deadline = time.perf_counter() + wait_s
    while any(w.in_flight for w in writers) and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="angarium-bench-") as name:
        yield Path(name)
