"""The devices of contacts: opened when a contact writes, kept while an answer is expected."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from angarium.bridge.replies import plan_deliveries
from angarium.clock import Clock
from angarium.errors import AngariumError, Busy, Fenced, Unavailable
from angarium.ids import ConversationId, UserId
from angarium.kms.contract import Sealer
from angarium.limits import CONTACT_CONNECTIONS_MAX, CONTACT_IDLE_S, OUTBOX_KEPT_S
from angarium.sdk.contract import Endpoint, Happened, Received, Sink
from angarium.storage.contract import DropRecord, Fence, PutRecord, Vault, Write
from angarium.telemetry.log import get_logger

log = get_logger("angarium.bridge")

OPEN_WAIT_S = 20.0  # A contact's device that is not open by then: Unavailable, tried again.
OPENED_AT_ONCE = 16
TYPING_EVERY_S = 20.0  # The provider shows "typing" for 25 s.

MakeEndpoint = Callable[[UserId, Sink], Endpoint]


class Line:
    """One contact's open device and its conversation with the gateway."""

    __slots__ = ("conversation", "endpoint", "expecting_until_s", "last_message", "typed_at_s",
                 "used_at_s")  # fmt: skip

    def __init__(self, endpoint: Endpoint, conversation: ConversationId, now_s: float) -> None:
        self.endpoint, self.conversation = endpoint, conversation
        self.used_at_s = now_s
        self.expecting_until_s = now_s
        self.last_message = ""
        self.typed_at_s = float("-inf")


class ContactSink:
    """What one contact's device does with what it receives: deliveries, and "typing"."""

    def __init__(self, contact: UserId, connections: "Connections") -> None:
        self._contact, self._connections = contact, connections

    def plan(self, received: Received) -> Sequence[Write]:
        return self._connections.plan(self._contact, received)

    def committed(self, received: Received) -> None:
        self._connections.answered(self._contact, received)

    def happened(self, event: Happened) -> None:
        self._connections.happened(self._contact, event)


class Connections:
    """Opens, keeps and closes contacts' devices; at most `connections_max` are open.

    A record of each open one is kept, so that a restart reopens them and no late answer waits
    for the contact to write again. `arrived` is called when there is something to deliver;
    `typing` with a message id when the contact should see that an answer is being written.
    """

    def __init__(
        self,
        *,
        channel: str,
        chars_max: int,
        make_endpoint: MakeEndpoint,
        gateway_user: UserId,
        vault: Vault,
        sealer: Sealer,
        clock: Clock,
        fence: Callable[[], Fence],
        arrived: Callable[[], None],
        typing: Callable[[str], None],
        connections_max: int = CONTACT_CONNECTIONS_MAX,
        idle_s: float = CONTACT_IDLE_S,
        expected_s: float = OUTBOX_KEPT_S,
    ) -> None:
        self._channel, self._chars_max = channel, chars_max
        self._make, self._gateway = make_endpoint, gateway_user
        self._vault, self._sealer, self._clock, self._fence = vault, sealer, clock, fence
        self._arrived, self._typing = arrived, typing
        self._max, self._idle_s, self._expected_s = connections_max, idle_s, expected_s
        self._lines: OrderedDict[UserId, Line] = OrderedDict()
        self._locks: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()
        self._missed: dict[UserId, float] = {}  # Ended, an answer expected: until when.

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, contact: UserId) -> Line | None:
        return self._lines.get(contact)

    async def open(self, contact: UserId, message: str = "") -> Line:
        """The contact's line, opened if need be; from now on an answer is expected. `message`
        is the provider's id of what the contact wrote.

        Raises Unavailable (the relay cannot be reached), Busy (every line expects an answer).
        """
        async with self._lock(contact):
            line = self._lines.get(contact) or await self._open(contact)
        line.used_at_s = self._clock.monotonic_s()
        line.expecting_until_s = line.used_at_s + self._expected_s
        line.last_message = message or line.last_message
        self._lines.move_to_end(contact)
        return line

    async def lost(self, contact: UserId) -> None:
        """The contact's device failed: close it; it is opened anew when next needed."""
        async with self._lock(contact):
            line = self._lines.pop(contact, None)
            if line is not None:
                await line.endpoint.close()

    async def reopen(self) -> None:
        """After a start: open what was open, so that answers written meanwhile arrive. What
        cannot be opened now is opened when its contact writes. Raises Fenced."""
        records = await self._vault.read(self._scope)
        await self._open_all([UserId(record.key) for record in records[: self._max]])

    async def mend(self) -> int:
        """A device that ended by itself (displaced, refused, a defect) hears nothing more:
        close it and, while an answer is expected, open it anew. Raises Fenced, and what kept a
        device from opening; it is tried again at the next call."""
        for contact, line in list(self._lines.items()):
            if line.endpoint.error is not None:
                log.warning("bridge.device_ended", code=line.endpoint.error.code)
                self._missed[contact] = line.expecting_until_s
                await self.lost(contact)
        now_s = self._clock.monotonic_s()
        self._missed = {
            contact: until_s
            for contact, until_s in self._missed.items()
            if until_s > now_s and contact not in self._lines
        }
        failures = await self._open_all(list(self._missed))
        if failures:
            raise failures[0]
        return 0

    async def _open_all(self, contacts: Sequence[UserId]) -> list[AngariumError]:
        """Open them, a few at a time. One that fails does not keep the others closed."""
        gate, failures = asyncio.Semaphore(OPENED_AT_ONCE), list[AngariumError]()

        async def one(contact: UserId) -> None:
            async with gate:
                try:
                    await self.open(contact)
                except Fenced:
                    raise
                except AngariumError as error:
                    log.warning("bridge.device_not_opened", code=error.code)
                    failures.append(error)

        async with asyncio.TaskGroup() as group:
            for contact in contacts:
                group.create_task(one(contact))
        return failures

    async def close_idle(self) -> int:
        """Close lines unused for `idle_s` on which no answer is expected; returns how many."""
        now_s = self._clock.monotonic_s()
        idle = [
            contact
            for contact, line in self._lines.items()
            if line.expecting_until_s <= now_s and now_s - line.used_at_s >= self._idle_s
        ]
        for contact in idle:
            await self._close(contact)
        return len(idle)

    async def close(self) -> None:
        """Close all; they are reopened at the next start."""
        self._missed.clear()
        while self._lines:
            _, line = self._lines.popitem()
            try:
                await line.endpoint.close()
            except AngariumError:
                pass  # Closing must not keep the others open; nothing committed is lost.

    # --- what contacts' devices receive ---

    def plan(self, contact: UserId, received: Received) -> Sequence[Write]:
        return plan_deliveries(
            received, channel=self._channel, contact=contact, gateway=self._gateway,
            chars_max=self._chars_max, sealer=self._sealer, now_ms=self._clock.now_ms(),
        )  # fmt: skip

    def answered(self, contact: UserId, received: Received) -> None:
        if received.sender != self._gateway:
            return
        line = self._lines.get(contact)
        if line is not None:
            line.used_at_s = line.expecting_until_s = self._clock.monotonic_s()
        self._arrived()

    def happened(self, contact: UserId, event: Happened) -> None:
        writes = event.kind == "part" or (event.kind == "typing" and event.on)
        line = self._lines.get(contact)
        if not writes or event.user != self._gateway or line is None or not line.last_message:
            return
        now_s = self._clock.monotonic_s()
        if line.expecting_until_s > now_s and now_s - line.typed_at_s >= TYPING_EVERY_S:
            line.typed_at_s = now_s
            self._typing(line.last_message)

    # --- opening and closing ---

    def _lock(self, contact: UserId) -> asyncio.Lock:
        """Held while a contact's device is opened or closed: there are never two of one."""
        lock = self._locks.get(contact)
        if lock is None:
            lock = self._locks[contact] = asyncio.Lock()
        return lock

    @property
    def _scope(self) -> str:
        return f"lines/{self._channel}"

    async def _open(self, contact: UserId) -> Line:
        await self._make_room()
        mark = self._sealer.seal(b"open", f"{self._scope}/{contact}")
        await self._vault.write([PutRecord(self._scope, contact, mark)], self._fence())
        endpoint = self._make(contact, ContactSink(contact, self))
        try:
            async with asyncio.timeout(OPEN_WAIT_S):
                await endpoint.open()
                conversation = await endpoint.converse([self._gateway])
        except BaseException as error:
            await endpoint.close()
            if isinstance(error, TimeoutError):
                raise Unavailable("the contact's device could not be opened in time") from None
            raise
        line = Line(endpoint, conversation, self._clock.monotonic_s())
        self._lines[contact] = line
        return line

    async def _make_room(self) -> None:
        if len(self._lines) < self._max:
            return
        now_s = self._clock.monotonic_s()
        # An answer that has not come for so long gives way to somebody who waits now.
        for patience_s in (0.0, self._idle_s):
            for contact, line in self._lines.items():
                idle = now_s - line.used_at_s >= patience_s
                if idle and (patience_s or line.expecting_until_s <= now_s):
                    await self._close(contact)
                    return
        raise Busy("as many contacts wait for an answer as may be connected")

    async def _close(self, contact: UserId) -> None:
        async with self._lock(contact):
            line = self._lines.pop(contact, None)
            if line is None:
                return
            await line.endpoint.close()
            await self._vault.write([DropRecord(self._scope, contact)], self._fence())
