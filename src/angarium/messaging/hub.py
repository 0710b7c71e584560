"""The connections of this node: frames in by ticks, frames out in one write each, time."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from angarium.clock import Clock
from angarium.errors import AngariumError, Malformed, SlowConsumer, TooLarge
from angarium.ids import DeviceId, UserId
from angarium.limits import (
    EVENT_UNSENT_BYTES_MAX,
    SEND_BUFFER_BYTES_CUT,
    SEND_BUFFER_BYTES_MAX,
    SLOW_CONSUMER_WAIT_S,
)
from angarium.messaging.connection import Connection
from angarium.messaging.engine import Engine
from angarium.messaging.figures import Figures
from angarium.protocol.codec import Codec, JsonCodec, MsgpackCodec, messages_of
from angarium.protocol.frames import SUBPROTOCOL_JSON, ServerFrame
from angarium.protocol.server_effects import Effect, Hangup, Write
from angarium.protocol.server_side import CLOSE_INTERNAL, ServerSide

log_lines = logging.getLogger("angarium.messaging")
TICK_S = 1.0
Carry = Callable[[Connection, Effect], None]


class Hub:
    """Listens to the engine. What is neither `Write` nor `Hangup` is handed to `carry`.

    Per message there is only decode, decide, encode: no task, no future, no log line.
    Frames of one connection leave in one write per turn of the loop. A defect met while serving
    one connection closes that one (4002) and costs the others nothing.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        clock: Clock,
        figures: Figures,
        carry: Carry,
        gone: Callable[[Connection], None],
    ) -> None:
        self._engine, self._clock, self._figures = engine, clock, figures
        self._carry, self._gone = carry, gone
        self._msgpack: Codec = MsgpackCodec()
        self._json: Codec = JsonCodec()
        self._connections: dict[int, Connection] = {}
        self._by_user: dict[UserId, dict[Connection, None]] = {}
        self._dirty: dict[Connection, None] = {}
        self._closing: list[tuple[int, int, str]] = []
        self._unsent: dict[Connection, None] = {}
        self._flush_planned = False
        self._timer: asyncio.TimerHandle | None = None
        self.on_tick: Callable[[], None] = lambda: None
        engine.attach(self)

    # --- what the engine tells ------------------------------------------------------------

    def opened(self, connection: int, subprotocol: str) -> None:
        codec = self._json if subprotocol == SUBPROTOCOL_JSON else self._msgpack
        machine = ServerSide(self._clock.monotonic_s())
        self._connections[connection] = Connection(connection, codec, machine)
        self._figures.connections += 1
        self._figures.opened += 1

    def ready(self) -> None:
        now_s = self._clock.monotonic_s()
        connections = self._connections
        for number, payload in self._engine.poll():
            connection = connections.get(number)
            if connection is None:
                continue
            machine = connection.machine
            try:
                frames = connection.codec.decode_client(payload)
                self._figures.received += len(frames)
                effects = machine.receive(frames, now_s)
            except (Malformed, TooLarge) as error:
                effects = machine.refuse(error)
            except Exception as error:
                self._give_up(connection, error)
                continue
            self.perform(connection, effects)

    def refused(self, connection: int, oversized: bool) -> None:
        found = self._connections.get(connection)
        if found is not None:
            why = "the message breaks the WebSocket protocol"
            error = TooLarge("the message is too large") if oversized else Malformed(why)
            self.perform(found, found.machine.refuse(error))

    def closed(self, connection: int) -> None:
        found = self._connections.pop(connection, None)
        if found is None:
            return
        self._figures.connections -= 1
        found.machine.hang_up(0, "")
        self._dirty.pop(found, None)
        self._unsent.pop(found, None)
        of_user = self._by_user.get(found.user)
        if of_user is not None and found in of_user:
            del of_user[found]
            if not of_user:
                del self._by_user[found.user]
        self._gone(found)

    # --- who is here --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._connections)

    def everyone(self) -> list[Connection]:
        return list(self._connections.values())

    def users(self) -> Iterable[UserId]:
        return self._by_user.keys()

    def of_user(self, user: UserId) -> Iterable[Connection]:
        """Connections of a user's devices, verified ones only."""
        return self._by_user.get(user, {}).keys()

    def register(self, connection: Connection, user: UserId, device: DeviceId) -> None:
        """The other end is known now. Its earlier connections are still there."""
        connection.user, connection.device = user, device
        self._by_user.setdefault(user, {})[connection] = None

    # --- carrying out -------------------------------------------------------------------------

    def perform(self, connection: Connection, effects: Iterable[Effect]) -> None:
        """Carry effects out, in order. Raises nothing."""
        try:
            for effect in effects:
                if type(effect) is Write:
                    self.write(connection, effect.frame)
                elif type(effect) is Hangup:
                    self._hang_up(connection, effect)
                else:
                    self._carry(connection, effect)
        except Exception as error:
            self._give_up(connection, error)

    def _hang_up(self, connection: Connection, effect: Hangup) -> None:
        self._figures.count_close(effect.code)
        self._closing.append((connection.number, effect.code, effect.reason))
        self._plan_flush()

    def _give_up(self, connection: Connection, error: Exception) -> None:
        """A defect of ours: this client comes again and resumes."""
        log_lines.error("connection.failed", extra={"error": type(error).__name__})
        for effect in connection.machine.hang_up(CLOSE_INTERNAL, "internal"):
            if isinstance(effect, Hangup):
                self._hang_up(connection, effect)

    def refuse(self, connection: Connection, error: AngariumError) -> None:
        """Tell why and close, with the code of the error."""
        self.perform(connection, connection.machine.refuse(error))

    def write(self, connection: Connection, frame: ServerFrame) -> None:
        """Queue a frame for the end of this turn."""
        self.write_encoded(connection, connection.encode(frame))

    def write_encoded(self, connection: Connection, encoded: bytes) -> None:
        """The same for a frame in the connection's own encoding."""
        if not connection.out:
            self._dirty[connection] = None
            self._plan_flush()
        connection.out.append(encoded)

    def is_behind(self, connection: Connection) -> bool:
        """Whether what may be dropped should be dropped for this connection."""
        return self._engine.unsent_bytes(connection.number) > EVENT_UNSENT_BYTES_MAX

    def _plan_flush(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write out everything queued, then close what is to be closed."""
        self._flush_planned = False
        dirty, self._dirty = self._dirty, {}
        engine = self._engine
        for connection in dirty:
            out, connection.out = connection.out, []
            for payload in messages_of(connection.codec, out):
                connection.written_bytes += len(payload)
                engine.send(connection.number, payload)
        engine.flush()
        closing, self._closing = self._closing, []
        for number, code, reason in closing:
            engine.close(number, code, reason)
        now_s = self._clock.monotonic_s()
        for connection in dirty:
            unsent_bytes = engine.unsent_bytes(connection.number)
            if unsent_bytes > SEND_BUFFER_BYTES_CUT:
                self._unsent.pop(connection, None)
                self.refuse(connection, SlowConsumer("this device asks for more than it reads"))
            elif unsent_bytes and connection not in self._unsent:
                self._unsent[connection] = None
                connection.moved_s = now_s

    # --- time ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.start()
        now_s = self._clock.monotonic_s()
        for connection in list(self._connections.values()):
            effects = connection.machine.tick(now_s)
            if effects:
                self.perform(connection, effects)
        self._close_slow(now_s)
        self.on_tick()

    def _close_slow(self, now_s: float) -> None:
        """A peer that takes nothing, or stays far behind, is let go: it can resume."""
        for connection in list(self._unsent):
            unsent_bytes = self._engine.unsent_bytes(connection.number)
            if not unsent_bytes:
                del self._unsent[connection]
                continue
            drained_bytes = connection.written_bytes - unsent_bytes
            moves = drained_bytes > connection.drained_bytes
            connection.drained_bytes = drained_bytes
            if moves and unsent_bytes <= SEND_BUFFER_BYTES_MAX:
                connection.moved_s = now_s
            elif now_s - connection.moved_s >= SLOW_CONSUMER_WAIT_S:
                del self._unsent[connection]
                self.refuse(connection, SlowConsumer("this device reads too slowly"))
