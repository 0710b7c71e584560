"""From the log to the devices: pushed live where possible, caught up by ranges otherwise."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence

from angarium.errors import AngariumError, Gone, NotMember, Unavailable
from angarium.ids import ConversationId
from angarium.limits import RANGE_MESSAGES_MAX, READS_AT_ONCE
from angarium.messaging.chores import Chores
from angarium.messaging.connection import Connection
from angarium.messaging.conversations import Live
from angarium.messaging.figures import Figures
from angarium.messaging.history import Recent, frame_for, range_frame
from angarium.messaging.hub import Hub
from angarium.model.conversation import Conversation, Head
from angarium.model.message import StoredMessage
from angarium.protocol.frames import Get, ServerFrame
from angarium.protocol.server_rules import err_frame
from angarium.storage.contract import MessageLog

log_lines = logging.getLogger("angarium.messaging")
_READ_AGAIN_S = 1.0
_HEADS_AT_ONCE = 500


class Delivery:
    """Every device of every participant gets each message once, in order.

    A message goes out at once when it is the next one and there is credit. Otherwise only the
    head is remembered, and what is missing comes from memory or by one range read at a time for
    each connection, at most READS_AT_ONCE on the node.
    """

    def __init__(
        self, *, hub: Hub, log: MessageLog, chores: Chores, figures: Figures, recent: Recent
    ) -> None:
        self._hub, self._log, self._chores, self._figures = hub, log, chores, figures
        self._recent = recent
        self._lives: dict[ConversationId, Live] = {}
        self._reads: deque[tuple[Connection, Get | None]] = deque()
        self._readers = 0

    # --- who follows what -----------------------------------------------------------------

    def find(self, c: str) -> Live | None:
        return self._lives.get(ConversationId(c))

    def attach(self, connection: Connection, conversation: Conversation) -> Live:
        """From here on the conversation's head is watched for this connection."""
        live = self._lives.get(conversation.id)
        if live is None:
            live = self._lives[conversation.id] = Live(conversation)
        live.conversation = conversation
        live.listeners[connection] = None
        connection.joined.add(conversation.id)
        return live

    def detach(self, connection: Connection, c: str) -> None:
        live = self._lives.get(ConversationId(c))
        if live is None:
            return
        live.listeners.pop(connection, None)
        if not live.listeners:
            del self._lives[live.conversation.id]
            self._recent.forget(c)

    def gone(self, connection: Connection) -> None:
        """The connection ended."""
        for c in (*connection.joined, *connection.machine.backlog.cursors):
            self.detach(connection, c)
        connection.joined.clear()

    async def follow(self, conversation: Conversation, connections: list[Connection]) -> None:
        """These connections' users take part now. Raises nothing: a head check mends it."""
        for connection in connections:
            self.attach(connection, conversation)
        try:
            heads = await self._log.heads([conversation.id])
        except AngariumError:
            heads = {}
        live = self._lives.get(conversation.id)
        if live is None:
            return
        found = heads.get(conversation.id)
        if found is not None:
            live.raise_head(found)
        for connection in connections:
            if connection.machine.is_up and connection in live.listeners:
                connection.joined.discard(conversation.id)
                effects = connection.machine.follow(conversation.id, live.as_head())
                self._hub.perform(connection, effects)

    def unfollow(self, connection: Connection, c: str) -> None:
        """The connection's user takes part no more."""
        self.detach(connection, c)
        connection.joined.discard(c)
        self._hub.perform(connection, connection.machine.unfollow(c))

    # --- news -------------------------------------------------------------------------------

    def accepted(self, message: StoredMessage) -> None:
        """A message that this node has just stored."""
        c = message.conversation
        live = self._lives.get(c)
        if live is None:
            return
        if message.epoch != live.epoch:
            self.noticed(c, Head(message.epoch, message.sequence))
            return
        if message.sequence > live.head:
            live.head = message.sequence
        self._recent.add(message)
        for connection in tuple(live.listeners):
            if connection.machine.is_up and not self._push(connection, message):
                self.pump(connection)

    def heard(self, messages: Iterable[StoredMessage]) -> None:
        """Messages that another node has just stored, told by the bus."""
        for message in messages:
            live = self._lives.get(message.conversation)
            if live is not None and message.sequence > live.head:
                self.accepted(message)

    def noticed(self, c: ConversationId, head: Head) -> bool:
        """The log is known to reach `head`. True when that is news."""
        live = self._lives.get(c)
        if live is None:
            return False
        news = live.raise_head(head)
        if news:
            self._tell(live)
        return news

    def _tell(self, live: Live) -> None:
        head, c = live.as_head(), live.conversation.id
        for connection in tuple(live.listeners):
            cursor = connection.machine.backlog.cursors.get(c)
            if cursor is not None and (
                cursor.sent < head.sequence or cursor.epoch != head.epoch
            ):
                self._hub.perform(connection, connection.machine.notice(c, head))

    async def check_heads(self) -> None:
        """Compare every followed conversation with the store. Raises Unavailable."""
        conversations = list(self._lives)
        for at in range(0, len(conversations), _HEADS_AT_ONCE):
            heads = await self._log.heads(conversations[at : at + _HEADS_AT_ONCE])
            for c, head in heads.items():
                live = self._lives.get(c)
                if live is not None:
                    self._figures.heads_repaired += live.raise_head(head)
                    self._tell(live)

    # --- delivering -------------------------------------------------------------------------

    def pump(self, connection: Connection) -> None:
        """Deliver what is missing, as far as credit goes."""
        machine = connection.machine
        backlog = machine.backlog
        while machine.is_up and not connection.reading and (wanted := backlog.wanted()):
            c, first, count = wanted
            messages = self._remembered(c, backlog.cursors[c].epoch, first, count)
            if not messages:
                connection.reading = True
                self._read(connection, None)
            elif self._push_all(connection, messages):
                backlog.rotate(c)
            else:
                backlog.put_off(c)
        if machine.is_up:
            self._hub.perform(connection, machine.pumped())

    def _remembered(
        self, c: str, epoch: int, first: int, count: int
    ) -> Sequence[StoredMessage]:
        messages = self._recent.run(c, first, count)
        if messages and messages[0].epoch != epoch:
            self._recent.forget(c)  # The log was restored: this is another history's end.
            return ()
        return messages

    def _push(self, connection: Connection, message: StoredMessage) -> bool:
        """False when the message did not go out and the connection is behind with it."""
        c, backlog = message.conversation, connection.machine.backlog
        size = len(message.to.get(connection.device, b""))
        if backlog.push(c, message.epoch, message.sequence, size):
            self._figures.deliveries += 1
            self._hub.write(connection, frame_for(message, connection.device))
            return True
        return c not in backlog.behind

    def _push_all(self, connection: Connection, messages: Iterable[StoredMessage]) -> bool:
        before = self._figures.deliveries
        for message in messages:
            if not self._push(connection, message):
                break
        return self._figures.deliveries > before

    # --- reading ----------------------------------------------------------------------------

    def fetch(self, connection: Connection, get: Get) -> None:
        """Answer a `get`, in its turn."""
        self._read(connection, get)

    def _read(self, connection: Connection, get: Get | None) -> None:
        self._reads.append((connection, get))
        if self._readers < READS_AT_ONCE:
            self._readers += 1
            self._chores.start(self._work_off_reads(), "messaging.read")

    async def _work_off_reads(self) -> None:
        try:
            while self._reads:
                connection, get = self._reads.popleft()
                if get is None:
                    await self._catch_up(connection)
                else:
                    await self._answer(connection, get)
        finally:
            self._readers -= 1

    async def _catch_up(self, connection: Connection) -> None:
        machine = connection.machine
        wanted = machine.backlog.wanted() if machine.is_up else None
        if wanted is not None:
            c, first, count = wanted
            try:
                messages = await self._read_log(connection, c, first, first + count - 1)
                cursor = machine.backlog.cursors.get(c)
                if not messages or messages[0].sequence != first:
                    await self._explain_hole(connection, c, messages)
                elif cursor is not None and cursor.epoch != messages[0].epoch:
                    await self._look_again(c)
                self._push_all(connection, messages)
            except Exception as error:
                if not isinstance(error, AngariumError):
                    log_lines.error("read.failed", extra={"error": type(error).__name__})
                asyncio.get_running_loop().call_later(_READ_AGAIN_S, self._again, connection)
                return
            machine.backlog.rotate(c)
        self._again(connection)

    def _again(self, connection: Connection) -> None:
        connection.reading = False
        self.pump(connection)

    async def _explain_hole(
        self, connection: Connection, c: str, messages: Sequence[StoredMessage]
    ) -> None:
        """What the store does not keep any more is passed over, anything else is waited for."""
        head = await self._look_again(c)
        backlog = connection.machine.backlog
        if head is not None and backlog.skip(c, head.floor):
            return
        cursor = backlog.cursors.get(c)
        following = messages[0].sequence if messages else 0
        if cursor is not None and following != cursor.sent + 1:
            backlog.put_off(c)

    async def _look_again(self, c: str) -> Head | None:
        """The head in the store; one of another epoch makes every device here resume."""
        name = ConversationId(c)
        head = (await self._log.heads([name])).get(name)
        live = self.find(c)
        if head is not None and live is not None and head.epoch != live.epoch:
            self.noticed(name, head)
        return head

    async def _answer(self, connection: Connection, get: Get) -> None:
        machine, live = connection.machine, self.find(get.c)
        answer: ServerFrame
        try:
            if live is None or get.c not in machine.backlog.cursors:
                raise NotMember("this user does not take part in the conversation")
            last = min(get.last, get.first + RANGE_MESSAGES_MAX - 1)
            messages = self._remembered(get.c, live.epoch, get.first, last - get.first + 1)
            if len(messages) < min(last, live.head) - get.first + 1:
                messages = await self._read_log(connection, get.c, get.first, last)
            if not messages and get.last < live.floor:
                raise Gone(live.floor)
            answer = range_frame(
                get.id,
                (get.c, get.first, get.last),
                messages,
                connection.device,
                epoch=live.epoch,
                floor=live.floor,
                head=live.head,
            )
        except AngariumError as error:
            answer = err_frame(get.id, error)
        machine.fetched()
        if machine.is_up:
            self._hub.write(connection, answer)

    async def _read_log(
        self, connection: Connection, c: str, first: int, last: int
    ) -> Sequence[StoredMessage]:
        self._figures.range_reads += 1
        try:
            return await self._log.read(
                ConversationId(c), connection.device, first, last, last - first + 1
            )
        except AngariumError:
            raise
        except Exception as error:
            raise Unavailable("the store failed") from error
