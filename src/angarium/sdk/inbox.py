"""Receiving: opened in order, written in one go, shown, and only then acknowledged."""

import asyncio
from collections import deque
from collections.abc import Sequence

from angarium.errors import AngariumError
from angarium.ids import UserId
from angarium.limits import RECONNECT_MAX_S, RECONNECT_MIN_S
from angarium.protocol.effects import EpochBegan, Skipped
from angarium.protocol.frames import Msg
from angarium.sdk.contract import Received, Sink
from angarium.sdk.desk import Desk
from angarium.sdk.incoming import KeysWanted, open_message, starts_session
from angarium.sdk.outgoing import Outbox
from angarium.sdk.talk import Talk
from angarium.storage.contract import Write

Arrival = Msg | EpochBegan | Skipped


class Inbox:
    """What the machine delivered and is not durable yet; bounded by the relay's credit."""

    def __init__(self, desk: Desk, outbox: Outbox, sink: Sink) -> None:
        self._desk, self._outbox, self._sink = desk, outbox, sink
        self._arrivals: deque[Arrival] = deque()
        self._wake = asyncio.Event()

    def put(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals.extend(arrivals)
        self._wake.set()

    async def run(self) -> None:
        """Work off arrivals until cancelled, or until nothing can be written any more."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._arrivals:
                await self._work_off()

    async def _work_off(self) -> None:
        """Everything that has come so far, in one write."""
        batch = list(self._arrivals)
        self._arrivals.clear()
        received: list[Received] = []
        plans: list[Write] = []
        dropped: list[Write] = []
        talks: dict[str, Talk] = {}
        for arrival in batch:
            talk = talks.setdefault(arrival.c, self._desk.talk(arrival.c))
            if isinstance(arrival, EpochBegan):
                talk.epoch, talk.cursor = arrival.epoch, 0
            elif isinstance(arrival, Skipped):
                talk.cursor = max(talk.cursor, arrival.floor - 1)
            else:
                opened = await self._open(arrival, talk)
                talk.epoch, talk.cursor = arrival.e, arrival.s
                self._desk.remember_stream(opened.key, opened.stream)
                plans += self._sink.plan(opened)
                if arrival.dev == self._desk.device:
                    dropped += self._outbox.seen(talk, opened.key, arrival.s)
                received.append(opened)
        saved = [write for talk in talks.values() for write in self._desk.save(talk)]
        await asyncio.shield(self._desk.journal.add(plans, [*saved, *dropped]))
        for opened in received:
            self._sink.committed(opened)
        self._acknowledge(talks, received)

    def _acknowledge(self, talks: dict[str, Talk], received: Sequence[Received]) -> None:
        desk = self._desk
        counts = dict.fromkeys(talks, 0)
        for opened in received:
            counts[opened.conversation] += 1
        for c, messages in counts.items():
            cursor = talks[c].cursor
            desk.act(desk.machine.committed(c, cursor, messages, desk.now_s()))

    async def _open(self, message: Msg, talk: Talk) -> Received:
        """Open it, with one refresh of the keys where they are not enough."""
        desk = self._desk
        users = await self._members(talk)
        inner: bytes | None = None
        if message.ct and desk.keyring.knows([UserId(message.sender)]):
            try:
                return self._opened(message, talk, users, None, last_try=False)
            except KeysWanted as wanted:
                inner = wanted.inner
        if message.ct and message.dev != desk.device:
            users = await self._refreshed(talk, users, message.sender)
        return self._opened(message, talk, users, inner, last_try=True)

    def _opened(
        self,
        message: Msg,
        talk: Talk,
        users: Sequence[UserId],
        inner: bytes | None,
        *,
        last_try: bool,
    ) -> Received:
        desk = self._desk
        opened = open_message(message, talk, desk.engine, users, inner=inner, last_try=last_try)
        if starts_session(message) and desk.keyring.count_used():
            desk.spawn(desk.keyring.top_up())
        return opened

    async def _members(self, talk: Talk) -> tuple[UserId, ...]:
        known = self._desk.keyring.known_members(talk.id)
        if known is not None:
            return known
        return await self._asked(talk, fresh=False) or (self._desk.user,)

    async def _refreshed(
        self, talk: Talk, users: Sequence[UserId], sender: str
    ) -> tuple[UserId, ...]:
        members = await self._asked(talk, fresh=True) or tuple(users)
        everybody = tuple(dict.fromkeys((*members, UserId(sender))))
        await self._patiently_refresh(everybody)
        return members

    async def _asked(self, talk: Talk, *, fresh: bool) -> tuple[UserId, ...] | None:
        """The members; None when the server will not say. Waits while it is only away."""
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                return await self._desk.keyring.members(talk.id, fresh=fresh)
            except AngariumError as error:
                if not error.retryable:
                    return None
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RECONNECT_MAX_S)

    async def _patiently_refresh(self, users: Sequence[UserId]) -> None:
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                return await self._desk.keyring.refresh(users)
            except AngariumError as error:
                if not error.retryable:
                    return None  # IdentityChanged: only known devices stay trusted.
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RECONNECT_MAX_S)
