"""A device without encryption that says exactly what a test wants, to the node it wants."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from angarium.ids import ConversationId, DeviceId, UserId, uuid7
from angarium.model.conversation import Participant
from angarium.model.device import Device
from angarium.protocol.frames import Err, Ok, Sealed, Send
from angarium.testing.cluster import Cluster
from angarium.testing.rawclient import RawClient

WAIT_S = 30.0
ASK_EVERY_S = 0.1
NOW_MS = 1_790_000_000_000
T = TypeVar("T")


class Phone:
    """One connection of a device; keeps the frames that came."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.frames: list[Any] = []
        self._came = asyncio.Event()
        client.on_frames = self._take

    def _take(self, frames: list[Any]) -> None:
        self.frames += frames
        self._came.set()

    async def all(self, kind: type[T], count: int, within_s: float = WAIT_S) -> list[T]:
        """The first `count` frames of this kind, waiting for them if need be."""
        async with asyncio.timeout(within_s):
            while True:
                found = [frame for frame in self.frames if isinstance(frame, kind)]
                if len(found) >= count:
                    return found[:count]
                assert not self.client.closed.is_set(), f"closed: {self.client.close_code}"
                self._came.clear()
                await self._came.wait()

    async def say(self, send: Send) -> Ok | Err:
        """Send it; what the node says to it, taken away."""
        self.frames = [each for each in self.frames if not isinstance(each, Ok | Err)]
        self.client.send([send])
        return (await self.answers(1))[0]

    async def answers(self, count: int, within_s: float = WAIT_S) -> list[Ok | Err]:
        """What the node said to the first `count` sends."""
        return await self.all(Ok | Err, count, within_s)  # type: ignore[arg-type]


async def connect(nodes: Cluster, number: int, user: str, device: str, **options: Any) -> Phone:
    """Connected to node `number`, past the backlog."""
    client = await RawClient.connect(nodes.url(number), device, nodes.token(user), **options)
    return Phone(client)


Pair = tuple[ConversationId, list[tuple[str, str]]]


async def enrol_pair(nodes: Cluster, name: str) -> Pair:
    """Two people with one device each, in one conversation, written into the store:
    the conversation, and (user, device) of both."""
    return (await enrol_pairs(nodes, name, 1))[0]


async def enrol_pairs(nodes: Cluster, name: str, count: int) -> list[Pair]:
    made: list[Pair] = []
    async with nodes.open_store() as store:
        for number in range(count):
            people = [(f"@{name}-{n}x{number}:angarium", f"{name}{n}X{number}".upper())
                      for n in (1, 2)]  # fmt: skip
            c = ConversationId(uuid7(NOW_MS))
            for user, device in people:
                known = Device(UserId(user), DeviceId(device), "sdk", {}, True, NOW_MS)
                await store.directory.put_device(known)
            members = [Participant(UserId(user), "person") for user, _ in people]
            await store.conversations.create(c, members, NOW_MS)
            made.append((c, people))
    return made


def make_send(
    c: ConversationId,
    to: Sequence[str],
    cs: int,
    key: str = "",
    request: int = 0,
    ct: bytes = b"",
) -> Send:
    """A message for these devices; the same key makes the same bytes."""
    key = key or uuid7(NOW_MS)
    sealed = [Sealed(device, ct or f"sealed {key} for {device}".encode()) for device in to]
    return Send(request or cs, c, key, cs, sealed)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = WAIT_S) -> float:
    """Ask until it holds; returns the seconds that took. Raises TimeoutError."""
    since_s = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(ASK_EVERY_S)
    return time.monotonic() - since_s
