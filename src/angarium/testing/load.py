"""Load of many light clients on a cluster: enrolled, paced, brought to rest, judged.

    async with Load(cluster, clients=200, messages_per_s=300) as load:
        async with load.sending():
            await cluster.kill(1)
        assert await load.verdict() == []
        print(load.figures())

Sends are paced by the clock, not by answers, and go on while nothing is reachable. Devices and
conversations are written straight into the store: no keys, so 200 take a moment.
"""

import asyncio
import copy
import random
import resource
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, TypeVar

from angarium.clock import SystemClock
from angarium.errors import AngariumError, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId, uuid7
from angarium.model.conversation import Head, Participant
from angarium.model.device import Device
from angarium.protocol.link import RECONNECT_S
from angarium.storage.contract import Store
from angarium.testing.histories import (
    ClientHistory,
    Stored,
    check_histories,
    figures,
)
from angarium.testing.load_client import LoadClient
from angarium.testing.simulation.invariants import Entry

T = TypeVar("T")

OPENING_AT_ONCE = 64
HEADS_AT_ONCE = 200
ENROLLING_AT_ONCE = 16
LIVE_WAIT_S = 60.0
SETTLE_WAIT_S = 60.0
PACE_S = 0.005
LOOK_EVERY_S = 0.1
WAITING_MAX = 20_000  # Unconfirmed messages of all clients. At it the load pauses, and says so.
LOG_MESSAGES_MAX = 1_000_000
_FILES_BESIDE = 256


class Target(Protocol):
    """What is put under load; `Cluster` is one."""

    def pick(self, excluding: Collection[str] = ()) -> str:
        """The WebSocket URL of a node that is ready. Raises Unavailable."""
        ...

    def token(self, user: str) -> str: ...

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        """A way of its own to the store behind all nodes."""
        ...


class Load:
    """`clients` devices, `devices_per_user` of one user, in `conversations` of `members` users
    each, or in `layout` (user numbers from 0).

    `reconnect_s` bounds the clients' pauses before a new connection. Loads of different `seed`
    on one target are different people.
    """

    def __init__(
        self,
        target: Target,
        *,
        clients: int = 200,
        conversations: int = 100,
        members: int = 3,
        devices_per_user: int = 1,
        layout: Sequence[Sequence[int]] | None = None,
        messages_per_s: float = 300.0,
        body_bytes: int = 300,
        seed: int = 1,
        reconnect_s: tuple[float, float] = RECONNECT_S,
    ) -> None:
        self.clients: list[LoadClient] = []
        self.messages_per_s, self.body_bytes = messages_per_s, body_bytes
        self.held_back = 0  # Sends that were due and not made, at WAITING_MAX.
        self._target, self._count, self._seed = target, clients, seed
        self._reconnect_s = reconnect_s
        self._chance = random.Random(seed)  # noqa: S311 - load, not a secret
        self._per_user = devices_per_user
        users = -(-clients // devices_per_user)
        self._layout = layout or deal(users, conversations, members, self._chance)
        self._members: dict[str, tuple[LoadClient, ...]] = {}
        self._speakers: list[tuple[LoadClient, str]] = []

    # --- life -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Enrol all devices, connect them, wait until all are live. Raises Unavailable."""
        raise_file_limit(2 * self._count)
        await self._enrol()
        await _each(self.clients, self._connect, OPENING_AT_ONCE)

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self.clients))
        await asyncio.sleep(0.05)  # Sockets close when the loop comes round.

    async def __aenter__(self) -> "Load":
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _enrol(self) -> None:
        clock = SystemClock()
        now_ms = clock.now_ms()
        for number in range(self._count):
            user = f"@load{self._seed}-{number // self._per_user}:angarium"
            self.clients.append(
                LoadClient(
                    user=user,
                    device=f"LOAD{self._chance.getrandbits(64):016X}",
                    token=self._target.token(user),
                    pick=self._target.pick,
                    seed=self._seed,
                    reconnect_s=self._reconnect_s,
                )
            )
        for numbers in self._layout:
            conversation = uuid7(now_ms)
            members = tuple(client for n in numbers for client in self._of_user(n))
            self._members[conversation] = members
            for member in members:
                member.join(conversation, [each.device for each in members])
                self._speakers.append((member, conversation))
        async with self._target.open_store() as store:

            async def put_device(client: LoadClient) -> None:
                user, name = UserId(client.user), DeviceId(client.device)
                await store.directory.put_device(Device(user, name, "sdk", {}, True, now_ms))

            async def create(c: str) -> None:
                users = {UserId(m.user): None for m in self._members[c]}
                people = [Participant(user, "person") for user in users]
                await store.conversations.create(ConversationId(c), people, now_ms)

            await _each(self.clients, put_device, ENROLLING_AT_ONCE)
            await _each(list(self._members), create, ENROLLING_AT_ONCE)

    def _of_user(self, number: int) -> Sequence[LoadClient]:
        first = number * self._per_user
        return self.clients[first : first + self._per_user]

    async def _connect(self, client: LoadClient) -> None:
        client.start()
        try:
            await asyncio.wait_for(client.live.wait(), LIVE_WAIT_S)
        except TimeoutError:
            raise Unavailable(f"{client.device} did not become live in time") from None
        if client.history.ended:
            raise Unavailable(f"{client.device} was turned away: {client.history.ended}")

    # --- work -----------------------------------------------------------------------------

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Sends are paced for as long as the block runs."""
        pace = asyncio.create_task(self.run(float("inf")))
        try:
            yield
        finally:
            pace.cancel()
            await asyncio.gather(pace, return_exceptions=True)

    async def run(self, seconds: float) -> None:
        """Send `messages_per_s` for so long, whatever the answers."""
        loop = asyncio.get_running_loop()
        started_s, made = loop.time(), 0
        while (elapsed_s := loop.time() - started_s) < seconds:
            due = int(elapsed_s * self.messages_per_s)
            room = WAITING_MAX - self.unconfirmed
            self.held_back += max(0, due - made - room)
            for _ in range(min(due - made, room)):
                client, conversation = self._chance.choice(self._speakers)
                client.say(conversation, self.body_bytes)
            made = due
            await asyncio.sleep(PACE_S)

    async def saturate(self, seconds: float, in_flight: int = 4) -> int:
        """Keep `in_flight` messages of every client in each of its conversations on the way for
        so long; returns how many were acknowledged in that time."""
        count = 0

        def again(client: LoadClient, conversation: str) -> None:
            nonlocal count
            count += 1
            client.say(conversation, self.body_bytes)

        for client in self.clients:
            client.on_stored = again
        for client, conversation in self._speakers * in_flight:
            client.say(conversation, self.body_bytes)
        await asyncio.sleep(seconds)
        for client in self.clients:
            client.on_stored = None
        return count

    @property
    def unconfirmed(self) -> int:
        return sum(client.unconfirmed for client in self.clients)

    @property
    def offline(self) -> int:
        """How many clients have no connection now."""
        return sum(not client.online for client in self.clients)

    # --- the end --------------------------------------------------------------------------

    async def settle(self, within_s: float = SETTLE_WAIT_S) -> list[str]:
        """Wait until everything is acknowledged and delivered everywhere; returns what was not
        within `within_s`, as sentences."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        async with self._target.open_store() as store:
            while True:
                unfinished = self._unconfirmed_sentences() or await self._behind(store)
                if not unfinished or loop.time() >= deadline_s:
                    return unfinished
                await asyncio.sleep(LOOK_EVERY_S)

    def _unconfirmed_sentences(self) -> list[str]:
        return [
            f"{client.device}: {client.unconfirmed} messages are not acknowledged"
            for client in self.clients
            if client.unconfirmed and not client.history.ended
        ]

    async def _behind(self, store: Store) -> list[str]:
        wanted = [ConversationId(c) for c in self._members]
        try:
            heads: dict[ConversationId, Head] = {}
            for at in range(0, len(wanted), HEADS_AT_ONCE):
                heads |= await store.log.heads(wanted[at : at + HEADS_AT_ONCE])
        except AngariumError as error:
            return [f"the store does not answer: {error.code}"]
        return [
            f"{client.device} has {client.cursors.get(c, 0)} of {heads[c].sequence}"
            for c in wanted
            for client in self._members[c]
            if c in heads and client.cursors.get(c, 0) < heads[c].sequence
        ]

    async def stored(self) -> Stored:
        """Every log, as the store holds it now."""
        async with self._target.open_store() as store:

            async def read(c: str) -> list[Entry]:
                log = await store.log.read(
                    ConversationId(c), DeviceId(""), 1, LOG_MESSAGES_MAX, LOG_MESSAGES_MAX
                )
                return [Entry(m.sequence, m.key, m.sender, m.device, m.cs) for m in log]

            logs = {c: await read(c) for c in self._members}
        members = {c: frozenset(m.user for m in each) for c, each in self._members.items()}
        return Stored(logs, members)

    async def verdict(self, within_s: float = SETTLE_WAIT_S) -> list[str]:
        """Settle, read the store, and name every broken invariant."""
        unfinished = await self.settle(within_s)
        # What is acknowledged while the store is read may be missing there, and is not lost.
        histories = copy.deepcopy(self.histories) if unfinished else self.histories
        return check_histories(histories, await self.stored(), unfinished)

    @property
    def histories(self) -> list[ClientHistory]:
        return [client.history for client in self.clients]

    def figures(self, since_s: float = 0.0, until_s: float = float("inf")) -> dict[str, float]:
        """See `histories.figures`; times are those of the running loop."""
        return figures(self.histories, since_s, until_s)


def raise_file_limit(files: int) -> None:
    """Let this process and its children have so many open files. Raises Unavailable."""
    wanted = files + _FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise Unavailable(f"{wanted} open files are needed, `ulimit -Hn` allows {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def deal(
    clients: int, conversations: int, members: int, chance: random.Random
) -> list[list[int]]:
    """Who is in each conversation, as numbers: at random, everybody in as many, or one more.

    Raises ValueError.
    """
    if not 2 <= members <= clients:
        raise ValueError("a conversation takes two members or more, and all must be there")
    layout: list[list[int]] = []
    deck: list[int] = []
    for _ in range(conversations):
        if len(deck) < members:
            # Whoever is left of the last deck comes late in this one: nobody is dealt twice.
            left = set(deck)
            deck += sorted(chance.sample(range(clients), clients), key=left.__contains__)
        layout.append(deck[:members])
        deck = deck[members:]
    return layout


async def _each(items: Sequence[T], work: Any, at_once: int) -> None:
    """Run `work` on every item, `at_once` of them at a time; the first error ends all."""
    rest = iter(items)

    async def worker() -> None:
        for item in rest:  # One iterator for all workers.
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except* AngariumError as errors:
        raise errors.exceptions[0] from None
