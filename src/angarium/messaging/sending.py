"""The checks between a send and the log: rate, membership, the exact list of devices."""

import asyncio
from collections.abc import Callable

from angarium.clock import Clock
from angarium.errors import AngariumError, Busy, Forbidden, RateLimited
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.limits import ROSTER_RECHECK_S, SENDS_HELD_BYTES_MAX
from angarium.messaging.append import Appender, Pending
from angarium.messaging.connection import Connection
from angarium.messaging.conversations import Answer, Roster, Rosters
from angarium.messaging.figures import Figures
from angarium.messaging.hub import Hub
from angarium.model.message import NewMessage
from angarium.protocol.frames import Send
from angarium.protocol.server_side import State

Limiter = Callable[[UserId], float]


class Sending:
    """Sends of one connection keep their order through every wait on the way.

    A list of devices that does not fit what this node knows is not refused at once: the
    directory is asked first, unless that was done a moment ago. What waits holds at most
    SENDS_HELD_BYTES_MAX of this node's memory; more is Busy.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        rosters: Rosters,
        appender: Appender,
        clock: Clock,
        figures: Figures,
        limiter: Limiter | None,
    ) -> None:
        self._hub, self._rosters, self._appender = hub, rosters, appender
        self._clock, self._figures, self._limiter = clock, figures, limiter
        self._waiting: dict[str, list[tuple[Connection, Send]]] = {}
        self._held_bytes = 0

    def send(self, connection: Connection, send: Send) -> None:
        """Queue the message for the log, or answer why not."""
        if connection.parked:
            if self._hold(connection, send):
                connection.parked.append(send)
            return
        slow_s = self._ask_limiter(connection, send)
        if slow_s is None:
            return
        if not slow_s:
            self._check(connection, send)
        elif self._hold(connection, send):
            connection.parked.append(send)
            asyncio.get_running_loop().call_later(slow_s, self._unpark, connection)

    def gone(self, connection: Connection) -> None:
        """The connection ended: what it had parked is dropped, its client sends it again."""
        while connection.parked:
            self._release(connection.parked.popleft())

    def loaded(self, c: ConversationId, answer: Answer) -> None:
        """A roster was read: go on with what waited for it."""
        for connection, send in self._waiting.pop(c, ()):
            self._release(send)
            if not isinstance(answer, Roster):
                self._reject(connection, send, answer)
            elif error := answer.check(connection.user, connection.device, names(send)):
                self._reject(connection, send, error)
                if isinstance(error, Forbidden):
                    self._hub.refuse(connection, error)  # Removed, and nobody told this node.
            else:
                self._offer(connection, send)

    def _ask_limiter(self, connection: Connection, send: Send) -> float | None:
        """Seconds to wait; None when the send was refused."""
        if self._limiter is None:
            return 0.0
        try:
            return self._limiter(connection.user)
        except RateLimited as error:
            self._reject(connection, send, error)
            return None

    def _unpark(self, connection: Connection) -> None:
        """Go on with the first parked send; the limiter saw it already."""
        parked = connection.parked
        if not parked or connection.machine.state is State.CLOSED:
            return
        self._check(connection, self._release(parked.popleft()))
        while parked:
            slow_s = self._ask_limiter(connection, parked[0])
            if slow_s is None:
                self._release(parked.popleft())
            elif slow_s > 0:
                asyncio.get_running_loop().call_later(slow_s, self._unpark, connection)
                return
            else:
                self._check(connection, self._release(parked.popleft()))

    def _hold(self, connection: Connection, send: Send) -> bool:
        """Whether there is room to let it wait; if not it is refused."""
        size_bytes = weight_bytes(send)
        if self._held_bytes + size_bytes > SENDS_HELD_BYTES_MAX:
            self._reject(connection, send, Busy("too many messages wait", 250))
            return False
        self._held_bytes += size_bytes
        return True

    def _release(self, send: Send) -> Send:
        self._held_bytes -= weight_bytes(send)
        return send

    def _check(self, connection: Connection, send: Send) -> None:
        waiting = self._waiting.get(send.c)
        if waiting is not None:
            if self._hold(connection, send):
                waiting.append((connection, send))
            return
        c = ConversationId(send.c)
        roster = self._rosters.find(c)
        error = roster and roster.check(connection.user, connection.device, names(send))
        if roster is not None and error is None:
            self._offer(connection, send)
        elif error and self._is_young(roster) and not isinstance(error, Forbidden):
            self._reject(connection, send, error)
        elif self._hold(connection, send):
            self._waiting[send.c] = [(connection, send)]
            self._rosters.want(c)

    def _is_young(self, roster: Roster | None) -> bool:
        return roster is not None and (
            self._clock.monotonic_s() - roster.loaded_s < ROSTER_RECHECK_S
        )

    def _offer(self, connection: Connection, send: Send) -> None:
        to = {DeviceId(sealed.dev): sealed.ct for sealed in send.to}
        message = NewMessage(
            ConversationId(send.c),
            connection.user,
            connection.device,
            MessageKey(send.key),
            send.cs,
            send.kind,
            to,
            self._clock.now_ms(),
        )
        try:
            self._appender.offer(Pending(connection, send, message, weight_bytes(send)))
        except AngariumError as error:
            self._reject(connection, send, error)

    def _reject(self, connection: Connection, send: Send, error: AngariumError) -> None:
        self._figures.refused += 1
        self._hub.perform(connection, connection.machine.rejected(send, error))


def names(send: Send) -> list[str]:
    """The devices a send is for."""
    return [sealed.dev for sealed in send.to]


def weight_bytes(send: Send) -> int:
    """What it weighs in memory, ciphertexts above all."""
    return sum(len(sealed.ct) for sealed in send.to)
