"""What tests of the real node share: frames with an answer, two devices in a conversation."""

import asyncio
import ctypes
import os
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from angarium.ids import ConversationId
from angarium.limits import RANGE_MESSAGES_MAX
from angarium.protocol.frames import Err, Get, Msg, Ok, Pong, Range, Sealed, Send
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import Enrolled, RawClient, enrol

WAIT_S = 30.0
T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

ECHO = """
from angarium import Agent

echo = Agent("echo", "Says it back", on_busy="enqueue")  # One answer for each message.

@echo.on_turn
async def answer(turn):
    return "echo " + turn.text
"""


class Talker:
    """A connection of a device without encryption; keeps the frames that came."""

    def __init__(self, client: RawClient, device: Enrolled | None = None) -> None:
        self.client, self.device = client, device
        self.frames: list[Any] = []
        self.counter = self._requests = 0
        self._came = asyncio.Event()
        client.on_frames = self._take

    @classmethod
    async def join(
        cls,
        node: ServedNode,
        device: Enrolled,
        cursors: dict[str, tuple[int, int]] | None = None,
    ) -> "Talker":
        """Connected, and past the backlog."""
        client = await RawClient.connect(
            node.websocket_url, device.device, device.token, cursors=cursors, wait_live=False
        )
        talker = cls(client, device)
        await client.wait(client.live)
        assert not client.closed.is_set(), f"turned away with {client.close_code}"
        return talker

    def _take(self, frames: list[Any]) -> None:
        self.frames += frames
        self._came.set()

    async def next(self, kind: type[T], fits: Callable[[T], bool] = lambda frame: True) -> T:
        """The first frame of this kind that fits, waiting for it if need be; taken away."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for at, frame in enumerate(self.frames):
                    if isinstance(frame, kind) and fits(frame):
                        return self.frames.pop(at)
                assert not self.client.closed.is_set(), f"closed: {self.client.close_code}"
                await self._news()

    async def end_or_pong(self, number: int) -> bool:
        """Whether the node answered the ping of this number, and did not hang up instead."""
        async with asyncio.timeout(WAIT_S):
            while not self.client.closed.is_set():
                for frame in self.frames:
                    if isinstance(frame, Pong) and frame.n == number:
                        self.frames.clear()
                        return True
                await self._news()
        return False

    async def _news(self) -> None:
        """Return when frames came or the connection ended."""
        self._came.clear()
        closing = asyncio.ensure_future(self.client.closed.wait())
        coming = asyncio.ensure_future(self._came.wait())
        await asyncio.wait({closing, coming}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        coming.cancel()

    async def end(self) -> tuple[int, str]:
        """(close code, code of the error told before) once the node has hung up."""
        await self.client.wait(self.client.closed)
        told = [frame.code for frame in self.frames if isinstance(frame, Err)]
        return self.client.close_code, told[-1] if told else ""

    def make_send(
        self, c: ConversationId, to: Sequence[str], *, ct: bytes = b"", **changed: Any
    ) -> Send:
        """The next message of this device in `c`; random bytes are its ciphertext."""
        self._requests += 1
        if "cs" not in changed:
            self.counter += 1
        sealed = [Sealed(device, ct or os.urandom(64)) for device in to]
        fields = {"cs": self.counter, "key": str(uuid.uuid4()), **changed}
        return Send(self._requests, c, to=sealed, **fields)

    async def answer(self, send: Send) -> Ok | Err:
        """Send it; what the node says to it."""
        self.client.send([send])
        return await self.next(Ok | Err, lambda frame: frame.id == send.id)  # type: ignore[arg-type]

    async def leave(self) -> None:
        if not self.client.closed.is_set():
            await self.client.close()


@dataclass
class Pair:
    """Two people with one device each, in one conversation."""

    node: ServedNode
    ada: Talker
    bob: Talker
    c: ConversationId

    def next_send(self, **changed: Any) -> Send:
        return self.ada.make_send(self.c, [self.bob.device.device], **changed)

    async def say(self, **changed: Any) -> Ok | Err:
        return await self.ada.answer(self.next_send(**changed))

    async def assert_alive(self) -> None:
        """A message still goes through, and what was said before is still there."""
        send = self.next_send()
        told = await self.ada.answer(send)
        assert isinstance(told, Ok), told
        came = await self.bob.next(Msg, lambda frame: frame.key == send.key)
        assert (came.s, came.ct) == (told.s, send.to[0].ct)

    async def stored(self) -> list[tuple[int, str, bytes]]:
        """(sequence, key, ciphertext) of every message, as the other person can fetch it."""
        found: list[Msg] = []
        more = True
        while more:
            start = found[-1].s + 1 if found else 1
            self.bob.client.send([Get(1, self.c, start, start + RANGE_MESSAGES_MAX)])
            answer = await self.bob.next(Range)
            found += answer.msgs
            more = answer.more and bool(answer.msgs)
        return [(message.s, message.key, message.ct) for message in found]

    async def leave(self) -> None:
        await self.ada.leave()
        await self.bob.leave()


async def pair(node: ServedNode, name: str) -> Pair:
    """Two new people, connected; each call makes others."""
    once = os.urandom(4).hex()
    a, b = [await enrol(node, f"@{name}-{letter}-{once}:angarium") for letter in "ab"]
    c = await a.converse(b.user)
    return Pair(node, await Talker.join(node, a), await Talker.join(node, b), c)


async def get(node: ServedNode, path: str, **options: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
        return await client.get(node.http_url + path, **options)


async def post(node: ServedNode, path: str, **options: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
        return await client.post(node.http_url + path, **options)


def environment(folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The variables of a node on free ports with its data in `folder`."""
    kept = {name: value for name, value in os.environ.items() if "ANGARIUM_" not in name}
    given = {"port": "0", "websocket_port": "0", "data": str(folder), **settings}
    return kept | {f"ANGARIUM_{name.upper()}": value for name, value in given.items()}


def heed_permissions() -> None:
    """In a child before its program starts: permissions bind it, even if it is root's."""
    # prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE); refused, and not needed, for other users.
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


async def serve_until_it_ends(folder: Path, settings: Mapping[str, str]) -> tuple[int, str]:
    """(exit code, what it wrote) of an `angarium serve` that is expected to end by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "angarium", "serve",
        env=environment(folder, settings), cwd=folder.parent,
        preexec_fn=heed_permissions,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT_S):
            written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return int(process.returncode or 0), written.decode()
