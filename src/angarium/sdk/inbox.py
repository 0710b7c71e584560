"""Receiving: opened in order, written in one go, shown, and only then acknowledged."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from angarium.errors import AngariumError
from angarium.ids import UserId
from angarium.limits import RECONNECT_MAX_S, RECONNECT_MIN_S
from angarium.protocol.effects import EpochBegan, Skipped
from angarium.protocol.frames import Msg
from angarium.sdk.contract import Received, Sink
from angarium.sdk.desk import Desk
from angarium.sdk.incoming import KeysWanted, open_message, starts_session
from angarium.sdk.outgoing import Outbox
from angarium.sdk.records import unsealed_place
from angarium.sdk.talk import Talk
from angarium.storage.contract import Write

Arrival = Msg | EpochBegan | Skipped


@dataclass(slots=True)
class _Step:
    """One write: the program's part, conversations that moved, and what else goes with them."""

    plans: list[Write] = field(default_factory=list)
    talks: dict[str, Talk] = field(default_factory=dict)
    kept: list[Write] = field(default_factory=list)


class Inbox:
    """What the machine delivered and is not durable yet; bounded by the relay's credit."""

    def __init__(self, desk: Desk, outbox: Outbox, sink: Sink) -> None:
        self._desk, self._outbox, self._sink = desk, outbox, sink
        self._arrivals: deque[Arrival] = deque()
        self._wake = asyncio.Event()
        self._unsealed: dict[str, bytes] = {}

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

    async def load(self) -> None:
        """What an earlier life had unsealed and could not show yet."""
        self._unsealed = await self._desk.records.unsealed()

    async def _work_off(self) -> None:
        """Everything that has come so far, joined into as few writes as waiting allows.

        Between moving a ratchet or a cursor in memory and queueing the write that holds both
        and the program's part there is no await: whoever else writes this device's state could
        otherwise make the cursor durable without the message.
        """
        batch = list(self._arrivals)
        self._arrivals.clear()
        received: list[Received] = []
        step, steps = _Step(), []
        talks: dict[str, Talk] = {}
        for arrival in batch:
            talk = talks.setdefault(arrival.c, self._desk.talk(arrival.c))
            if isinstance(arrival, EpochBegan):
                talk.epoch, talk.cursor = arrival.epoch, 0
            elif isinstance(arrival, Skipped):
                talk.cursor = max(talk.cursor, arrival.floor - 1)
            else:
                opened = self._open_at_once(arrival, talk, step)
                if opened is None:
                    steps.append(self._queue(step))
                    step = _Step()
                    opened = await self._open(arrival, talk, step)
                self._take_in(arrival, talk, opened, step)
                received.append(opened)
            step.talks[arrival.c] = talk
        steps.append(self._queue(step))
        for durable in steps:
            await asyncio.shield(durable)
        for opened in received:
            self._sink.committed(opened)
        self._acknowledge(talks, received)

    def _queue(self, step: "_Step") -> "asyncio.Future[None]":
        core = [write for talk in step.talks.values() for write in self._desk.save(talk)]
        return self._desk.journal.add(step.plans, [*core, *self._desk.save(), *step.kept])

    def _take_in(self, message: Msg, talk: Talk, opened: Received, step: "_Step") -> None:
        talk.epoch, talk.cursor = message.e, message.s
        self._desk.remember_stream(opened.key, opened.stream)
        step.plans += self._sink.plan(opened)
        place = unsealed_place(message.c, message.s)
        if self._unsealed.pop(place, None) is not None:
            step.kept.append(self._desk.records.drop(place))
        if message.dev == self._desk.device:
            step.kept += self._outbox.seen(talk, opened.key, message.s)

    def _acknowledge(self, talks: dict[str, Talk], received: Sequence[Received]) -> None:
        desk = self._desk
        counts = dict.fromkeys(talks, 0)
        for opened in received:
            counts[opened.conversation] += 1
        for c, messages in counts.items():
            cursor = talks[c].cursor
            desk.act(desk.machine.committed(c, cursor, messages, desk.now_s()))

    def _open_at_once(self, message: Msg, talk: Talk, step: "_Step") -> Received | None:
        """Open it without waiting; None when members or keys must be fetched first. What was
        unsealed by then is kept with the step: the ratchet has moved."""
        keyring = self._desk.keyring
        users = keyring.known_members(talk.id)
        sealed = bool(message.ct) and message.dev != self._desk.device
        if users is None or (sealed and not keyring.knows([UserId(message.sender)])):
            return None
        place = unsealed_place(message.c, message.s)
        inner = self._unsealed.get(place)
        try:
            return self._opened(message, talk, users, inner, last_try=not sealed)
        except KeysWanted as wanted:
            if wanted.inner is not None and inner is None:
                self._unsealed[place] = wanted.inner
                step.kept.append(self._desk.records.put(place, wanted.inner))
            return None

    async def _open(self, message: Msg, talk: Talk, step: "_Step") -> Received:
        """Open it with members and keys fetched anew, once."""
        users = await self._members(talk)
        opened = self._open_at_once(message, talk, step)
        if opened is not None:
            return opened
        if step.kept:
            # Unsealed just now: durable before the wait below lets anybody else write.
            self._desk.journal.add((), [*self._desk.save(), *step.kept])
            step.kept.clear()
        users = await self._refreshed(talk, users, message.sender)
        inner = self._unsealed.get(unsealed_place(message.c, message.s))
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
