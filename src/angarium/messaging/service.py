"""The messaging service of one node: connections, log, delivery. It never sees plaintext."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from angarium.bus.contract import (
    Appended,
    Bus,
    DevicesChanged,
    Displaced,
    Ephemeral,
    Event,
    Joined,
    Left,
)
from angarium.bus.presence import Presence
from angarium.bus.registry import Registry
from angarium.clock import Clock
from angarium.errors import AngariumError, Forbidden, Unavailable
from angarium.ids import ConversationId, UserId
from angarium.limits import (
    BUS_MESSAGES_BYTES_MAX,
    DRAIN_CONNECTIONS_PER_S,
    DRAIN_GRACE_S,
    DRAIN_SPREAD_S_MAX,
    EVENTS_PER_S,
    HEAD_CHECK_BUS_S,
    HEAD_CHECK_DEAF_S,
    HEAD_CHECK_STORE_S,
    RECHECK_EVERY_S,
    RELIST_EVERY_S,
    RELISTED_USERS_MAX,
)
from angarium.messaging.append import Appender, Pending
from angarium.messaging.chores import Chores
from angarium.messaging.connection import Connection
from angarium.messaging.conversations import Answer, DeviceLists, Roster, Rosters
from angarium.messaging.delivery import Delivery
from angarium.messaging.displacement import Displacement
from angarium.messaging.engine import Engine
from angarium.messaging.events import EventRate, Events
from angarium.messaging.figures import Figures
from angarium.messaging.greeting import Authenticate, Greeter
from angarium.messaging.history import Recent, stored
from angarium.messaging.hub import Hub
from angarium.messaging.presence import Roll
from angarium.messaging.receipts import ReceiptFold
from angarium.messaging.sending import Limiter, Sending
from angarium.model.conversation import Head
from angarium.model.message import Accepted, AppendResult, StoredMessage
from angarium.protocol.server_effects import Append, Effect, Fetch, Greet, Pump, Relay
from angarium.protocol.server_side import CLOSE_GOAWAY
from angarium.storage.contract import Conversations, Directory, MessageLog, Receipts


class Messaging:
    """Assembles the parts and owns their tasks. `start`, then `drain` or not, then `stop`.

    `authenticate(token, device)` says whose token it is and when it ends, or raises
    Unauthenticated, TokenExpired or Forbidden. `limiter(user)` is asked once for each send:
    0 = go, seconds = slow down, raises RateLimited. `event_rate(user)` bounds what is told and
    forgotten, for each connection.
    `head_check=False` switches off the periodic comparison of heads; only tests do that, to
    show that a lost last doorbell is then never noticed. With a `registry`, a device's newer
    connection on another node displaces the older one here. While `bus_hears` says no, heads
    are compared with the store each HEAD_CHECK_DEAF_S. With `presence`, users are present who
    are connected to any node.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        log: MessageLog,
        conversations: Conversations,
        receipts: Receipts,
        directory: Directory,
        bus: Bus,
        clock: Clock,
        authenticate: Authenticate,
        limiter: Limiter | None = None,
        event_rate: EventRate = lambda user: EVENTS_PER_S,
        node_id: str = "node",
        head_check: bool = True,
        registry: Registry | None = None,
        presence: Presence | None = None,
        bus_hears: Callable[[], bool] = lambda: True,
    ) -> None:
        self.figures = Figures()
        self.is_ready = False
        self._bus, self._clock, self._conversations = bus, clock, conversations
        self._log = log
        self._head_check, self._bus_hears = head_check, bus_hears
        self._chores = Chores()
        self._recent = Recent()
        self._loops: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] = lambda: None
        self._announced: dict[ConversationId, Appended] = {}
        self._bus_check_due_s = self._store_check_due_s = self._relist_due_s = 0.0
        self._checking, self._checked_s = False, -math.inf
        self._drain_ends_s = 0.0
        self._relisted = 0
        self._empty = asyncio.Event()
        self._hub = Hub(
            engine=engine, clock=clock, figures=self.figures, carry=self._carry, gone=self._gone
        )
        self._hub.on_tick = self._tick
        self._device_lists = DeviceLists(directory, clock)
        self._rosters = Rosters(
            conversations=conversations,
            device_lists=self._device_lists,
            clock=clock,
            loaded=self._roster_loaded,
        )
        self._appender = Appender(
            log=log, clock=clock, figures=self.figures, done=self._appended
        )
        self._fold = ReceiptFold(receipts=receipts, figures=self.figures)
        self._delivery = Delivery(
            hub=self._hub,
            log=log,
            chores=self._chores,
            figures=self.figures,
            recent=self._recent,
        )
        self._displacement = Displacement(self._hub, bus, registry, self._chores, clock)
        self._open_doors(log, authenticate, limiter, event_rate, node_id, presence)

    def _open_doors(
        self,
        log: MessageLog,
        authenticate: Authenticate,
        limiter: Limiter | None,
        event_rate: EventRate,
        node_id: str,
        presence: Presence | None,
    ) -> None:
        """What lets events, sends and hellos in."""
        self._events = Events(
            hub=self._hub,
            delivery=self._delivery,
            bus=self._bus,
            fold=self._fold,
            figures=self.figures,
            clock=self._clock,
            rate=event_rate,
        )
        self._roll = Roll(
            delivery=self._delivery,
            events=self._events,
            chores=self._chores,
            clock=self._clock,
            presence=presence,
        )
        self._sending = Sending(
            hub=self._hub,
            rosters=self._rosters,
            appender=self._appender,
            clock=self._clock,
            figures=self.figures,
            limiter=limiter,
        )
        self._greeter = Greeter(
            hub=self._hub,
            log=log,
            conversations=self._conversations,
            device_lists=self._device_lists,
            delivery=self._delivery,
            clock=self._clock,
            authenticate=authenticate,
            node_id=node_id,
            welcomed=self._welcomed,
        )

    # --- life -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to serve on the running loop."""
        now_s = self._clock.monotonic_s()
        self._bus_check_due_s = now_s + HEAD_CHECK_BUS_S
        self._store_check_due_s = now_s + HEAD_CHECK_STORE_S
        self._relist_due_s = now_s + RELIST_EVERY_S
        self._unsubscribe = self._bus.subscribe(self._told, self.recheck)
        self._loops = [
            self._chores.start(self._appender.run(), "messaging.append"),
            self._chores.start(self._fold.run(), "messaging.receipts"),
        ]
        self._chores.start(self._rosters.run(), "messaging.rosters")
        self._chores.start(self._greeter.run(), "messaging.greeter")
        self._hub.start()
        self.is_ready = True

    async def drain(self, grace_s: float = DRAIN_GRACE_S) -> None:
        """Ask every client to move on; returns when all have, at the latest after `grace_s`.

        Sends are still served. What is connected at the deadline is closed with 4001.
        """
        self.is_ready = False
        self._drain_ends_s = self._clock.monotonic_s() + grace_s
        connections = self._hub.everyone()
        spread_s = min(DRAIN_SPREAD_S_MAX, len(connections) / DRAIN_CONNECTIONS_PER_S)
        for connection in connections:
            effects = connection.machine.go_away(spread_s, grace_s)
            self._hub.perform(connection, effects)
        if connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
            except TimeoutError:
                pass  # The deadline was told to every client.
        self._close_all()

    async def stop(self) -> None:
        """Store what was taken, close what is open, end every task. Safe to repeat."""
        self.is_ready = False
        self._displacement.stop()
        self._appender.close()
        self._fold.close()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._close_all()
        self._hub.stop()
        self._hub.flush()
        self._unsubscribe()
        self._unsubscribe = lambda: None
        await self._chores.close()

    def forget_recent(self, conversation: ConversationId) -> None:
        """Drop messages kept in memory, after a purge."""
        self._recent.forget(conversation)

    @property
    def connections(self) -> int:
        return len(self._hub)

    def _close_all(self) -> None:
        for connection in self._hub.everyone():
            effects = connection.machine.hang_up(CLOSE_GOAWAY, "goaway")
            self._hub.perform(connection, effects)

    # --- what machines ask for ------------------------------------------------------------

    def _carry(self, connection: Connection, effect: Effect) -> None:
        if isinstance(effect, Append):
            self._sending.send(connection, effect.send)
        elif isinstance(effect, Pump):
            self._delivery.pump(connection)
        elif isinstance(effect, Fetch):
            self._delivery.fetch(connection, effect.get)
        elif isinstance(effect, Relay):
            self._events.relay(connection, effect.frame)
        elif isinstance(effect, Greet):
            if self.is_ready:
                self._greeter.admit(connection)
            else:
                self._hub.refuse(connection, Unavailable("this node goes away", 1000))

    def _welcomed(self, connection: Connection) -> None:
        self._displacement.came(connection)
        self._roll.came(connection)
        if not self.is_ready:
            # Its hello came just before the drain began.
            left_s = max(0.0, self._drain_ends_s - self._clock.monotonic_s())
            self._hub.perform(connection, connection.machine.go_away(0.0, left_s))

    def _gone(self, connection: Connection) -> None:
        self._sending.gone(connection)
        self._displacement.went(connection)
        self._roll.went(connection)
        self._delivery.gone(connection)
        if not len(self._hub):
            self._empty.set()

    # --- the log answers ------------------------------------------------------------------

    def _appended(self, batch: list[Pending], results: list[AppendResult]) -> None:
        newest: dict[ConversationId, Accepted] = {}
        fresh: dict[ConversationId, list[StoredMessage]] = {}
        for pending, result in zip(batch, results, strict=True):
            machine, message = pending.connection.machine, pending.message
            if not isinstance(result, Accepted):
                self.figures.refused += 1
                effects = machine.rejected(pending.send, result.error)
                self._hub.perform(pending.connection, effects)
                continue
            self._hub.perform(pending.connection, machine.accepted(pending.send, result))
            if result.duplicate:
                self.figures.duplicates += 1
                head = Head(result.epoch, result.sequence)
                self._delivery.noticed(message.conversation, head)
            else:
                self.figures.accepted += 1
                entry = stored(message, result)
                self._delivery.accepted(entry)
                fresh.setdefault(message.conversation, []).append(entry)
            known = newest.get(message.conversation)
            if known is None or known.sequence < result.sequence:
                newest[message.conversation] = result
        # Stored before told: a crash between the two costs a late delivery, never a message.
        if newest:
            doorbells: list[Appended] = [
                self._doorbell(c, result, fresh.get(c, ())) for c, result in newest.items()
            ]
            self._bus.publish([*doorbells])
            if self._head_check:
                for doorbell in doorbells:
                    self._announced[doorbell.conversation] = replace(doorbell, messages=())

    def _doorbell(
        self, c: ConversationId, result: Accepted, fresh: Sequence[StoredMessage]
    ) -> Appended:
        """One doorbell for the newest message of each conversation is enough."""
        live, roster = self._delivery.find(c), self._rosters.find(c)
        conversation = live.conversation if live else roster.conversation if roster else None
        users = tuple(each.user for each in conversation.participants) if conversation else ()
        size = sum(len(ciphertext) for entry in fresh for ciphertext in entry.to.values())
        told = tuple(fresh) if size <= BUS_MESSAGES_BYTES_MAX else ()
        return Appended(c, result.epoch, result.sequence, users, told)

    # --- the bus tells --------------------------------------------------------------------

    def _told(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Appended():
                    self._told_appended(event)
                case Ephemeral():
                    self._events.told(event)
                case Displaced():
                    self._displacement.told(event)
                case DevicesChanged():
                    self._rosters.drop_user(event.user)
                    if any(True for _ in self._hub.of_user(event.user)):
                        self._chores.start(self._check_devices(event.user), "messaging.devices")
                case Joined() | Left():
                    self._rosters.drop(event.conversation)
                    if self._delivery.find(event.conversation) or any(
                        True for _ in self._hub.of_user(event.user)
                    ):
                        self._rosters.want(event.conversation)
                case _:
                    assert_never(event)

    def _told_appended(self, event: Appended) -> None:
        if event.messages:
            self._log.learn(event.messages)
            self._delivery.heard(event.messages)
        head = Head(event.epoch, event.sequence)
        self._delivery.noticed(event.conversation, head)
        if any(
            not self._follows(connection, event.conversation)
            for user in event.users
            for connection in self._hub.of_user(user)
        ):
            # Its Joined was lost.
            self._rosters.want(event.conversation)

    @staticmethod
    def _follows(connection: Connection, c: ConversationId) -> bool:
        return c in connection.machine.backlog.cursors or c in connection.joined

    def _roster_loaded(self, c: ConversationId, answer: Answer) -> None:
        self._sending.loaded(c, answer)
        if not isinstance(answer, Roster):
            return
        live = self._delivery.find(c)
        if live is not None:
            live.conversation = answer.conversation
            for connection in tuple(live.listeners):
                if connection.user not in answer.users:
                    self._delivery.unfollow(connection, c)
        newcomers = [
            connection
            for user in answer.users
            for connection in self._hub.of_user(user)
            if not self._follows(connection, c)
        ]
        if newcomers:
            work = self._delivery.follow(answer.conversation, newcomers)
            self._chores.start(work, "messaging.follow")

    async def _check_devices(self, user: UserId) -> None:
        """A user's devices changed: a removed one may stay connected no longer."""
        try:
            devices = {each.id for each in (await self._device_lists.fetch([user]))[user]}
        except AngariumError:
            return  # Its next hello is refused all the same.
        for connection in list(self._hub.of_user(user)):
            if connection.device not in devices:
                self._hub.refuse(connection, Forbidden("this device was removed"))

    # --- heads are compared -------------------------------------------------------------------

    def recheck(self) -> None:
        """Doorbells may have been missed: compare heads now, at most once in RECHECK_EVERY_S.

        Call it when a peer is lost; the bus does when it hears again.
        """
        due_s = max(self._clock.monotonic_s(), self._checked_s + RECHECK_EVERY_S)
        self._bus_check_due_s = min(self._bus_check_due_s, due_s)
        self._store_check_due_s = min(self._store_check_due_s, due_s)
        self._relist_due_s = min(self._relist_due_s, due_s)
        self._roll.look()
        self._tick()

    def _tick(self) -> None:
        now_s = self._clock.monotonic_s()
        self._roll.tick()
        if not self._head_check:
            return
        if now_s >= self._bus_check_due_s:
            self._bus_check_due_s = now_s + HEAD_CHECK_BUS_S
            # Said twice: a doorbell that was lost is made up for within seconds.
            announced, self._announced = self._announced, {}
            if announced:
                self._bus.publish(list(announced.values()))
        if not self._bus_hears():
            self._store_check_due_s = min(
                self._store_check_due_s, self._checked_s + HEAD_CHECK_DEAF_S
            )
        if now_s >= self._store_check_due_s and not self._checking:
            self._store_check_due_s = now_s + HEAD_CHECK_STORE_S
            self._checking, self._checked_s = True, now_s
            self._chores.start(self._check_heads(), "messaging.heads")

    async def _check_heads(self) -> None:
        """A head in the store beyond ours, or a conversation we do not know: catch up."""
        try:
            await self._delivery.check_heads()
            if self._clock.monotonic_s() < self._relist_due_s:
                return
            self._relist_due_s = self._clock.monotonic_s() + RELIST_EVERY_S
            users = sorted(self._hub.users())
            start = self._relisted if self._relisted < len(users) else 0
            turn = users[start : start + RELISTED_USERS_MAX]
            self._relisted = start + len(turn)
            for user in turn:
                await self._relist(user)
        except AngariumError:
            pass  # The store is away; the next check comes by itself.
        finally:
            self._checking = False

    async def _relist(self, user: UserId) -> None:
        listed = {each.id for each in await self._conversations.list_of(user)}
        for connection in list(self._hub.of_user(user)):
            if connection.machine.is_up:
                followed = {ConversationId(c) for c in connection.machine.backlog.cursors}
                for c in listed ^ (followed | {ConversationId(c) for c in connection.joined}):
                    self._rosters.want(c)
