"""A device: connects, resumes, receives in order and sends exactly once, by itself.

The pure machine (`protocol/client_side.py`) decides, the engine seals, the journal makes
durable; this file carries the machine's effects out.
"""

import asyncio
import random as random_module
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from angarium.clock import Clock
from angarium.e2ee.body import Body, pack, unpack
from angarium.e2ee.engine import CryptoEngine
from angarium.e2ee.parts import open_part, seal_part
from angarium.errors import (
    AngariumError,
    Malformed,
    NotFound,
    StoreUnwritable,
    Unauthenticated,
    Unavailable,
)
from angarium.ids import ConversationId, DeviceId, MessageKey, RandomBytes, UserId, uuid7
from angarium.kms.contract import Sealer
from angarium.limits import TYPING_TTL_MS
from angarium.model.device import DeviceKind
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.codec import messages_of
from angarium.protocol.effects import (
    CloseLink,
    Deliver,
    Effect,
    Ended,
    Ephemeral,
    EpochBegan,
    Live,
    OpenLink,
    Renumbered,
    Reseal,
    SendRefused,
    Skipped,
    Stored,
    Transmit,
)
from angarium.protocol.frames import AnyFrame, Evt, Part
from angarium.sdk.api import Api, Token
from angarium.sdk.contract import Delivered, Happened, Sink
from angarium.sdk.desk import Desk
from angarium.sdk.inbox import Inbox
from angarium.sdk.journal import Journal
from angarium.sdk.keyring import Keyring
from angarium.sdk.outgoing import Outbox
from angarium.sdk.records import SELF, Records, SelfRecord
from angarium.sdk.talk import Talk
from angarium.sdk.transport import ABNORMAL, Connection, Connector
from angarium.storage.contract import Fence, Vault, Write

UPKEEP_EVERY_S = 6 * 3600.0
UPKEEP_RETRY_S = 60.0  # While the server is away.
CLOSE_WAIT_S = 5.0  # For the last write, when a device is closed.


class DeviceEndpoint:
    """Implements `Endpoint`. `token(fresh)` gives a bearer token; `fence` proves the lease
    under which a shared device runs. `scope` is where its records lie in the vault."""

    def __init__(
        self,
        *,
        user: UserId,
        device: DeviceId,
        engine: CryptoEngine,
        vault: Vault,
        sealer: Sealer,
        api: Api,
        connector: Connector,
        token: Token,
        clock: Clock,
        sink: Sink,
        kind: DeviceKind,
        scope: str = "",
        fence: Fence | None = None,
        random: Callable[[], float] = random_module.random,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self.user, self.device = user, device
        self._api, self._connector, self._token = api, connector, token
        self._sink, self._random, self._random_bytes = sink, random, random_bytes
        self._desk = Desk(
            user=user,
            device=device,
            engine=engine,
            records=Records(vault, sealer, scope or f"device/{device}"),
            journal=Journal(vault, fence),
            keyring=Keyring(engine, api, kind, self._persist),
            machine=ClientMachine(device=device, random=random),
            clock=clock,
            random_bytes=random_bytes,
            act=self._act,
            spawn=self._spawn,
        )
        self._outbox = Outbox(self._desk)
        self._inbox = Inbox(self._desk, self._outbox, sink)
        self._connections: dict[int, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._vital: set[asyncio.Task[None]] = set()  # Without them the device is deaf or mute.
        self._timer: asyncio.TimerHandle | None = None
        self._live, self._stopped = asyncio.Event(), asyncio.Event()
        self.ended: asyncio.Future[AngariumError | None] | None = None
        self._closing = False
        self.error: AngariumError | None = None

    # --- life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """As in the contract. Raises IdentityChanged, UnverifiedDevice (an earlier device must
        sign this one), Unauthenticated, Unavailable when keys must be published and the server
        is away, SealBroken."""
        desk, self.ended = self._desk, asyncio.get_running_loop().create_future()
        for record in await desk.records.talks():
            desk.talks[ConversationId(record.c)] = Talk.load(record, self._random_bytes)
        cursors: dict[str, tuple[int, int]] = {
            talk.id: (talk.epoch, talk.cursor) for talk in desk.talks.values()
        }
        desk.machine = ClientMachine(
            device=self.device, random=self._random, cursors=cursors, app="angarium-py"
        )
        await self._outbox.load()
        await self._inbox.load()
        self._vital = {self._start(desk.journal.run()), self._start(self._inbox.run())}
        await self._publish()
        self._act(desk.machine.start(desk.now_s()))

    @property
    def live(self) -> bool:
        """Whether the device is connected and caught up, so far as it knows."""
        return self._desk.machine.state in ("live", "migrating")

    async def caught_up(self) -> None:
        """Wait until the backlog has been delivered once. Raises what ended the device."""
        waits = [asyncio.ensure_future(e.wait()) for e in (self._live, self._stopped)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.error is not None:
            raise self.error

    async def wait_ended(self) -> None:
        await self._stopped.wait()

    async def close(self) -> None:
        self._closing = True
        if self.error is None:
            try:
                async with asyncio.timeout(CLOSE_WAIT_S):
                    await self._desk.journal.flushed()
            except TimeoutError:
                pass  # The store is away; what is not durable was never promised.
        self._act(self._desk.machine.stop(self._desk.now_s()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._outbox.fail(Unavailable("the device was closed"))
        if self._timer is not None:
            self._timer.cancel()
        self._stop()

    async def _publish(self) -> None:
        desk = self._desk
        if (await desk.records.own()).published:
            self._spawn(self._upkeep())
            return
        await desk.keyring.publish()
        self._spawn(self._upkeep())
        await desk.journal.add((), [desk.records.put(SELF, SelfRecord(published=True))])

    async def _upkeep(self) -> None:
        """Prekeys and the fallback key, now and every few hours."""
        while True:
            pause_s = UPKEEP_EVERY_S
            try:
                await self._keep_keys()
            except (Unavailable, StoreUnwritable):
                pause_s = UPKEEP_RETRY_S
            await asyncio.sleep(pause_s)

    async def _keep_keys(self) -> None:
        try:
            await self._desk.keyring.top_up()
        except NotFound:
            # The server was restored to a time before this device: it must learn of it.
            await self._desk.keyring.publish()

    async def _persist(self) -> None:
        await asyncio.shield(self._desk.persist())

    # --- what the program asks --------------------------------------------------------------

    async def converse(self, users: Sequence[UserId]) -> ConversationId:
        """Raises what the API raises."""
        key = uuid7(self._desk.clock.now_ms(), self._random_bytes)
        everybody = list(dict.fromkeys([self.user, *users]))
        found = await self._api.create_conversation(everybody, None, key)
        self._desk.keyring.remember(found)
        return ConversationId(found["id"])

    async def submit(
        self,
        conversation: ConversationId,
        body: Body,
        key: MessageKey | None = None,
        also: Sequence[Write] = (),
    ) -> MessageKey:
        if self.error is not None:
            raise self.error
        return await self._outbox.submit(conversation, body, key, also)

    async def sent(self, key: MessageKey) -> Delivered:
        """Raises NotFound for a key not submitted here, and what the relay refused it with."""
        return await self._outbox.sent(key)

    def part(
        self, conversation: ConversationId, ref: str, index: int, body: Body, stream: bytes
    ) -> None:
        try:
            sealed = seal_part(stream, self.device, ref, index, pack(body), self._random_bytes)
        except ValueError:
            return  # No stream key: the final message says it all.
        self._act(self._desk.machine.ephemeral(Part(conversation, ref, index, ct=sealed)))

    def typing(self, conversation: ConversationId, on: bool) -> None:
        evt = Evt(conversation, "typing", ttl=TYPING_TTL_MS, on=on)
        self._act(self._desk.machine.ephemeral(evt))

    def mark_read(self, conversation: ConversationId, sequence: int) -> None:
        self._act(self._desk.machine.ephemeral(Evt(conversation, "read", s=sequence)))

    def mark_delivered(self, conversation: ConversationId, sequence: int) -> None:
        self._act(self._desk.machine.ephemeral(Evt(conversation, "delivered", s=sequence)))

    async def refresh_keys(self, users: Sequence[UserId]) -> None:
        """Fetch device lists now. Raises IdentityChanged and what the API raises."""
        await self._desk.keyring.refresh(users)
        await self._persist()

    async def persist(self) -> None:
        """Make what the engine changed durable."""
        await self._persist()

    # --- carrying out effects ---------------------------------------------------------------

    def _act(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case OpenLink():
                    self._spawn(self._connect(effect))
                case Transmit():
                    connection = self._connections.get(effect.link)
                    if connection is not None:
                        self._transmit(connection, effect.frames)
                case CloseLink():
                    connection = self._connections.pop(effect.link, None)
                    if connection is not None:
                        connection.close(effect.code)
                case Deliver():
                    self._inbox.put(effect.messages)
                case EpochBegan() | Skipped():
                    self._inbox.put([effect])
                case Ephemeral():
                    self._happened(effect.frame)
                case _:
                    self._act_on_sends(effect)
        self._arm()

    def _transmit(self, connection: Connection, frames: Sequence[AnyFrame]) -> None:
        """In as many messages as the relay's limit of one asks for."""
        codec = self._connector.codec
        for payload in messages_of(codec, [codec.encode((frame,)) for frame in frames]):
            connection.send(payload)

    def _act_on_sends(self, effect: Effect) -> None:
        match effect:
            case Stored():
                self._outbox.stored(effect)
            case SendRefused():
                self._outbox.refused(effect)
            case Renumbered():
                self._outbox.renumbered(effect)
            case Reseal():
                self._spawn(self._outbox.reseal(effect))
            case Live():
                self._live.set()
            case Ended():
                self._end(effect.error)

    async def _connect(self, effect: OpenLink) -> None:
        desk, link = self._desk, effect.link
        try:
            token = await self._token(effect.fresh_token)
            connection = await self._connector.open(
                partial(self._on_message, link), partial(self._on_close, link)
            )
        except Unauthenticated as error:
            self._on_close(link, Unauthenticated.close_code, str(error))
        except AngariumError as error:
            self._on_close(link, ABNORMAL, str(error))
        else:
            self._connections[link] = connection
            self._act(desk.machine.opened(link, token, desk.now_s()))

    def _on_message(self, link: int, payload: bytes) -> None:
        desk = self._desk
        try:
            frames = self._connector.codec.decode_server(payload)
        except AngariumError:
            self._act([CloseLink(link, Malformed.close_code)])
            self._on_close(link, ABNORMAL, "")
            return
        self._act(desk.machine.received(link, frames, desk.now_s()))

    def _on_close(self, link: int, code: int, reason: str) -> None:
        self._connections.pop(link, None)
        self._act(self._desk.machine.closed(link, code, reason, self._desk.now_s()))

    def _happened(self, frame: Evt | Part) -> None:
        conversation, user = ConversationId(frame.c), UserId(frame.sender)
        if isinstance(frame, Evt):
            event = Happened(conversation, frame.kind, user, frame.s, frame.on)
            self._sink.happened(event)
            return
        stream = self._desk.streams.get(frame.ref, b"")
        try:
            opened = open_part(stream, DeviceId(frame.dev), frame.ref, frame.i, frame.ct)
            body = unpack(opened)
        except (AngariumError, msgspec.MsgspecError):
            return  # Ephemeral: the final message follows whatever happens to a part.
        part = Happened(conversation, "part", user, ref=frame.ref, index=frame.i, body=body)
        self._sink.happened(part)

    def _arm(self) -> None:
        """One timer, for the machine's next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = self._desk.now_s()
        due_s = None if self._closing else self._desk.machine.due_s(now_s)
        if due_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due_s - now_s), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._act(self._desk.machine.tick(self._desk.now_s()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closing:
            work.close()
            return
        self._start(work)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or self._closing:
            return
        if isinstance(error, AngariumError) and error.retryable and task not in self._vital:
            return  # Upkeep of keys: tried again with the next one used.
        self._end(error if isinstance(error, AngariumError) else _unexpected(error))

    def _end(self, error: AngariumError) -> None:
        """Nothing goes on from here: fenced, displaced, refused, or a defect."""
        if self.error is not None:
            return
        self.error = error
        self._act(self._desk.machine.stop(self._desk.now_s()))
        self._outbox.fail(error)
        self._stop()

    def _stop(self) -> None:
        self._stopped.set()
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(self.error)


def _unexpected(error: BaseException) -> AngariumError:
    failure = AngariumError(f"the device stopped on a defect: {type(error).__name__}")
    failure.__cause__ = error
    return failure
