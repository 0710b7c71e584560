"""Sending: sealed once, durable before it leaves, the same bytes until the relay has it."""

import asyncio
from collections.abc import Sequence

from angarium.e2ee.body import Body
from angarium.e2ee.envelope import Draft
from angarium.errors import AngariumError, Busy, Conflict, NotFound, TooLarge, Unavailable
from angarium.ids import ConversationId, MessageKey, UserId, check_uuid, uuid7
from angarium.limits import (
    FRAME_BYTES_MAX,
    OUTBOX_WAITING_MAX,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
)
from angarium.protocol.effects import Renumbered, Reseal, SendRefused, Stored
from angarium.protocol.frames import Sealed
from angarium.protocol.outflow import Outgoing
from angarium.sdk.contract import Delivered
from angarium.sdk.desk import Desk
from angarium.sdk.journal import forget_error
from angarium.sdk.records import OUT, OutRecord
from angarium.sdk.talk import Out, Talk
from angarium.storage.contract import Write

_SEND_BYTES, _SEALED_BYTES = 256, 64  # What a send weighs beside its ciphertexts, and each.


class Outbox:
    """The messages of a device that are not yet seen in the log."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._places: dict[MessageKey, Talk] = {}

    async def load(self) -> None:
        """Take up what an earlier run left, in counter order.

        A key that is noted without a message or a sequence was never made durable: where a
        store has no transactions a crash can leave that. It may be submitted again.
        """
        for record in await self._desk.records.outs():
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            self._keep(self._desk.talk(record.c), record, done)
            self._queue(record)
        for talk in self._desk.talks.values():
            talk.recent = {k: s for k, s in talk.recent.items() if s or k in talk.outs}

    async def submit(
        self,
        conversation: ConversationId,
        body: Body,
        key: MessageKey | None,
        also: Sequence[Write],
    ) -> MessageKey:
        desk = self._desk
        chosen = key or MessageKey(uuid7(desk.clock.now_ms(), desk.random_bytes))
        check_uuid(chosen)
        talk = desk.talk(conversation)
        if len(self._places) >= OUTBOX_WAITING_MAX and chosen not in self._places:
            raise Busy("too many messages wait to be sent", 1000)
        async with talk.lock:
            earlier = talk.outs.get(chosen)
            if earlier is None and chosen in talk.recent:
                return chosen
            if earlier is None:
                users = await self._members(talk)
                await desk.keyring.prepare(users)
                out = self._make(talk, chosen, body, users, also)
        if earlier is not None:
            await asyncio.shield(earlier.durable)
            return chosen
        await asyncio.shield(out.durable)
        return chosen

    async def _members(self, talk: Talk) -> Sequence[UserId]:
        """Who takes part; while the server is away, who did when it was asked last."""
        try:
            found = await self._desk.keyring.members(talk.id)
        except Unavailable:
            if not talk.members:
                raise
            return talk.members
        talk.members = tuple(found)
        return found

    def _make(
        self,
        talk: Talk,
        key: MessageKey,
        body: Body,
        users: Sequence[UserId],
        also: Sequence[Write],
    ) -> Out:
        """Seal and queue the write. No await: ratchets, chain and record move together."""
        desk = self._desk
        roster = desk.engine.roster(users)
        draft = talk.chain.make(key, body, roster, desk.clock.now_ms())
        to = self._seal(users, draft.inner)
        talk.chain.commit(draft)
        talk.cs += 1
        record = OutRecord(talk.id, key, talk.cs, draft.inner, body, to, draft.stream)
        put = desk.records.put(f"{OUT}{talk.id}/{key}", record)
        talk.remember(key, 0)
        drop = desk.records.drop(f"{OUT}{talk.id}/{key}")
        # The ratchets before the ciphertext; the program's part last, so that nothing is marked
        # as answered whose answer is missing.
        durable = desk.journal.add((), desk.save(talk), [put, *also], undo=[drop])
        out = self._keep(talk, record, durable)
        desk.remember_stream(key, draft.stream)
        durable.add_done_callback(lambda done: self._written(talk, out, draft, done))
        return out

    def _written(
        self, talk: Talk, out: Out, draft: Draft, done: "asyncio.Future[None]"
    ) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            # Not durable: it never leaves. Its counter inside the seal stays used (a gap).
            self._forget(talk, out.record.key)
            if isinstance(error, Conflict) and talk.cs == out.record.cs:
                talk.cs -= 1
            return
        self._queue(out.record)

    async def sent(self, key: MessageKey) -> Delivered:
        talk = self._places.get(key)
        if talk is not None and key in talk.outs:
            return await asyncio.shield(talk.outs[key].stored)
        for known in self._desk.talks.values():
            if known.recent.get(key):
                return Delivered(known.id, known.recent[key], key)
        raise NotFound("no such message was submitted here")

    # --- what the machine reports -----------------------------------------------------------

    def stored(self, effect: Stored) -> None:
        if effect.sequence:
            self._confirm(self._desk.talk(effect.c), MessageKey(effect.key), effect.sequence)

    def seen(self, talk: Talk, key: MessageKey, sequence: int) -> list[Write]:
        """An own message came in the log: nothing of it must be kept any longer."""
        self._confirm(talk, key, sequence)
        if talk.outs.pop(key, None) is None:
            return []
        self._places.pop(key, None)
        return [self._desk.records.drop(f"{OUT}{talk.id}/{key}")]

    def refused(self, effect: SendRefused) -> None:
        talk, key = self._desk.talk(effect.c), MessageKey(effect.key)
        out = talk.outs.get(key)
        self._forget(talk, key)
        if out is not None and not out.stored.done():
            out.stored.set_exception(effect.error)
        drop = self._desk.records.drop(f"{OUT}{talk.id}/{key}")
        talk.cs = max((o.record.cs for o in talk.outs.values()), default=talk.cs - 1)
        self._desk.journal.add((), [drop, *self._desk.save(talk)])

    def renumbered(self, effect: Renumbered) -> None:
        talk = self._desk.talk(effect.c)
        writes: list[Write] = []
        for key, cs in effect.moved:
            out = talk.outs.get(key)
            if out is not None:
                out.record.cs = talk.cs = cs
                writes.append(self._desk.records.put(f"{OUT}{talk.id}/{key}", out.record))
        self._desk.journal.add((), [*writes, *self._desk.save(talk)])

    async def reseal(self, effect: Reseal) -> None:
        """Seal again for the device list of now, under the same key. Tried until it works or
        the keys cannot be trusted."""
        desk, delay_s = self._desk, RECONNECT_MIN_S
        talk = desk.talk(effect.c)
        while (out := talk.outs.get(effect.key)) is not None:
            try:
                users = await desk.keyring.members(talk.id, fresh=True)
                await desk.keyring.refresh(users)
                await desk.keyring.prepare(users)
                inner = talk.chain.remake(out.record.inner, desk.engine.roster(users))
                out.record.to, out.record.inner = self._seal(users, inner), inner
                put = desk.records.put(f"{OUT}{talk.id}/{effect.key}", out.record)
                await asyncio.shield(desk.journal.add((), [put, *desk.save(talk)]))
                to = tuple(out.record.to)
                desk.act(desk.machine.resealed(effect.c, effect.key, to, desk.now_s()))
                return
            except AngariumError as error:
                if not error.retryable:
                    self.refused(SendRefused(effect.c, effect.key, error))
                    desk.act(desk.machine.withdraw(effect.c, effect.key, desk.now_s()))
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RECONNECT_MAX_S)

    def fail(self, error: AngariumError) -> None:
        """The device has ended: whoever waits is told. What is durable leaves later."""
        for talk in self._desk.talks.values():
            for out in talk.outs.values():
                if not out.stored.done():
                    out.stored.set_exception(error)

    # --- details ----------------------------------------------------------------------------

    def _seal(self, users: Sequence[UserId], inner: bytes) -> list[Sealed]:
        """Raises TooLarge when the relay could not take it in one frame."""
        engine = self._desk.engine
        to = [Sealed(device.id, engine.seal(device, inner)) for device in engine.devices(users)]
        if sum(len(each.ct) + _SEALED_BYTES for each in to) + _SEND_BYTES > FRAME_BYTES_MAX:
            raise TooLarge(f"too large for {len(to)} devices at once; attach it as a file")
        return to

    def _keep(self, talk: Talk, record: OutRecord, durable: "asyncio.Future[None]") -> Out:
        stored: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        stored.add_done_callback(forget_error)
        out = talk.outs[record.key] = Out(record, durable, stored)
        self._places[MessageKey(record.key)] = talk
        return out

    def _queue(self, record: OutRecord) -> None:
        send = Outgoing(record.c, record.key, record.cs, tuple(record.to))
        self._desk.act(self._desk.machine.submit(send, self._desk.now_s()))

    def _confirm(self, talk: Talk, key: MessageKey, sequence: int) -> None:
        out = talk.outs.get(key)
        if out is not None:
            talk.remember(key, sequence)
            if not out.stored.done():
                out.stored.set_result(Delivered(talk.id, sequence, key))

    def _forget(self, talk: Talk, key: str) -> None:
        talk.outs.pop(key, None)
        talk.recent.pop(key, None)
        self._places.pop(MessageKey(key), None)
