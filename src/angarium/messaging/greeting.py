"""Hellos, worked off in batches: who it is, which conversations, where they stand.

A batch costs three queries (device lists, conversations, heads), however many hellos it has; a
resume one more for each conversation it lacks something of, unless memory has it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from angarium.clock import Clock
from angarium.errors import AngariumError, Forbidden, Unauthenticated, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.limits import HELLOS_AFTER_S, HELLOS_AT_ONCE, HELLOS_WAIT_S, HELLOS_WAITING
from angarium.messaging.connection import Authenticated, Connection
from angarium.messaging.conversations import DeviceLists
from angarium.messaging.delivery import Delivery
from angarium.messaging.hub import Hub
from angarium.model.conversation import Conversation
from angarium.protocol.server_side import State
from angarium.storage.contract import Conversations, MessageLog

log_lines = logging.getLogger("angarium.messaging")
Authenticate = Callable[[str, DeviceId], Authenticated]


class Greeter:
    """Admits up to HELLOS_AT_ONCE at a time. More than HELLOS_WAITING, and those whose turn
    would not come within HELLOS_WAIT_S, are sent away (4013) and told when to come again."""

    def __init__(
        self,
        *,
        hub: Hub,
        log: MessageLog,
        conversations: Conversations,
        device_lists: DeviceLists,
        delivery: Delivery,
        clock: Clock,
        authenticate: Authenticate,
        node_id: str,
        welcomed: Callable[[Connection], None],
    ) -> None:
        self._hub, self._log, self._conversations = hub, log, conversations
        self._device_lists, self._delivery, self._clock = device_lists, delivery, clock
        self._authenticate, self._node_id, self._welcomed = authenticate, node_id, welcomed
        self._waiting: deque[Connection] = deque()
        self._wake = asyncio.Event()
        self._batch_s = 0.0  # What the last batch took.
        self._began_s: float | None = None  # When the one under way began.

    def admit(self, connection: Connection) -> None:
        """Work on this hello in its turn."""
        waits_s = self._waits_s()
        slow = bool(self._waiting) and waits_s > HELLOS_WAIT_S
        if slow or len(self._waiting) >= HELLOS_WAITING:
            after_ms = round(1000 * max(HELLOS_AFTER_S, waits_s))
            self._hub.refuse(connection, Unavailable("too many connect at once", after_ms))
            return
        self._waiting.append(connection)
        self._wake.set()

    def _waits_s(self) -> float:
        """How long a hello that comes now would wait for its welcome."""
        batch_s = self._batch_s
        if self._began_s is not None:
            batch_s = max(batch_s, self._clock.monotonic_s() - self._began_s)
        return batch_s * (1 + len(self._waiting) // HELLOS_AT_ONCE)

    async def run(self) -> None:
        """Greet batch after batch, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                count = min(len(self._waiting), HELLOS_AT_ONCE)
                batch = [self._waiting.popleft() for _ in range(count)]
                self._began_s = self._clock.monotonic_s()
                await self._greet([each for each in batch if is_greeting(each)])
                self._batch_s = self._clock.monotonic_s() - self._began_s
                self._began_s = None

    async def _greet(self, batch: list[Connection]) -> None:
        try:
            known = await self._identify(batch)
            lists = await self._conversations.lists_of({each.user for each in known})
            await self._welcome([(each, lists[each.user]) for each in known])
        except AngariumError as error:
            self._send_away(batch, error)
        except Exception:
            self._send_away(batch, Unavailable("the store failed"))

    def _send_away(self, batch: Iterable[Connection], error: AngariumError) -> None:
        after_ms = error.data().get("after_ms", 1000)
        for connection in batch:
            if is_greeting(connection):
                self._hub.refuse(connection, Unavailable(str(error), after_ms))

    async def _identify(self, batch: Sequence[Connection]) -> list[Connection]:
        """Those whose token and device hold, registered; the others are refused."""
        users: dict[Connection, UserId] = {}
        for connection in batch:
            hello = connection.machine.hello
            if hello is None:
                continue
            try:
                found = self._authenticate(hello.tok, DeviceId(hello.dev))
                users[connection] = found.user
                self._bound(connection, found.expires_ms)
            except AngariumError as error:
                self._hub.refuse(connection, error)
            except Exception as error:
                # Whatever is odd about this token, the others of the batch are not at fault.
                log_lines.error("hello.failed", extra={"error": type(error).__name__})
                self._hub.refuse(connection, Unauthenticated("the token cannot be checked"))
        known = await self._check_devices(users, fresh=False)
        others = {each: user for each, user in users.items() if each not in known}
        if others:
            # A list read earlier may lack a device that was signed a moment ago.
            known += await self._check_devices(others, fresh=True)
        for connection in others:
            if connection not in known and is_greeting(connection):
                why = "the device is not registered and signed for this user"
                self._hub.refuse(connection, Forbidden(why))
        return known

    def _bound(self, connection: Connection, expires_ms: int) -> None:
        """The connection lasts no longer than its token."""
        if expires_ms:
            left_s = (expires_ms - self._clock.now_ms()) / 1000
            connection.machine.expires_s = self._clock.monotonic_s() + left_s

    async def _check_devices(
        self, users: dict[Connection, UserId], *, fresh: bool
    ) -> list[Connection]:
        lists = await self._device_lists.fetch(users.values(), fresh=fresh)
        known: list[Connection] = []
        for connection, user in users.items():
            hello = connection.machine.hello
            if hello is None or not is_greeting(connection):
                continue
            if any(device.id == hello.dev for device in lists[user]):
                self._hub.register(connection, user, DeviceId(hello.dev))
                known.append(connection)
        return known

    async def _welcome(self, listed: list[tuple[Connection, list[Conversation]]]) -> None:
        wanted: dict[ConversationId, None] = {}
        for connection, conversations in listed:
            for conversation in conversations:
                if is_greeting(connection):
                    # Watched before the heads are read: nothing falls between the two.
                    self._delivery.attach(connection, conversation)
                    wanted[conversation.id] = None
        for c, head in (await self._log.heads(list(wanted)) if wanted else {}).items():
            live = self._delivery.find(c)
            if live is not None:
                live.raise_head(head)
        for connection, _ in listed:
            if is_greeting(connection):
                self._enter(connection)

    def _enter(self, connection: Connection) -> None:
        lives = [self._delivery.find(c) for c in sorted(connection.joined)]
        standing = [
            (live.conversation.id, live.as_head()) for live in lives if live is not None
        ]
        connection.joined.clear()
        effects = connection.machine.welcome(
            standing,
            sid=f"{self._node_id}-{connection.number}",
            node=self._node_id,
            now_ms=self._clock.now_ms(),
        )
        self._hub.perform(connection, effects)
        self._welcomed(connection)


def is_greeting(connection: Connection) -> bool:
    """Whether the connection still waits for its welcome."""
    return connection.machine.state is State.GREETING
