"""The server's half of `angarium.1`: frames and facts in, effects out. No IO, no clock.

    awaiting hello -> greeting -> syncing -> live -> closed      (`draining` beside the last)

One machine serves one connection. Its shell carries effects out in order, reports what came of
them, and delivers what `backlog` wants.
"""

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import assert_never

from angarium.errors import (
    AngariumError,
    Busy,
    Malformed,
    Refused,
    SlowConsumer,
    TokenExpired,
    Unauthenticated,
    UnsupportedVersion,
)
from angarium.limits import (
    CIPHERTEXT_BYTES_MAX,
    CONVERSATIONS_PER_HELLO_MAX,
    DEAD_AFTER_S,
    EVENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    FRAMES_PER_ARRAY_MAX,
    GETS_IN_FLIGHT_PER_CONNECTION,
    HELLO_WAIT_S,
    PING_EVERY_S,
    SENDS_IN_FLIGHT_PER_CONNECTION,
    SENDS_IN_FLIGHT_PER_CONVERSATION,
    SLOW_CONSUMER_WAIT_S,
)
from angarium.model.conversation import Head
from angarium.model.message import Accepted
from angarium.protocol.backlog import Backlog
from angarium.protocol.codec import UnknownFrame
from angarium.protocol.frames import (
    VERSION,
    Ack,
    Bye,
    ClientFrame,
    Err,
    Evt,
    Get,
    Goaway,
    Heads,
    Hello,
    Limits,
    Ok,
    Part,
    Ping,
    Pong,
    Send,
    SyncEnd,
    Welcome,
)
from angarium.protocol.server_effects import (
    Append,
    Effect,
    Fetch,
    Greet,
    Hangup,
    Pump,
    Relay,
    Write,
)
from angarium.protocol.server_rules import (
    SEQUENCE_MAX,
    TO_MAX,
    check_send,
    close_reason,
    err_frame,
)

CLOSE_NORMAL = 1000
CLOSE_GOAWAY = 4001
CLOSE_INTERNAL = 4002
CLOSE_RESYNC = 4010
CLOSE_NO_PONG = 4012
HEADS_PER_FRAME = 1000
REF_CHARACTERS_MAX = 128
FEATURES_MAX, FEATURE_CHARACTERS_MAX = 16, 32
_REASON_BYTES_MAX = 120  # A close reason is part of a control frame of at most 125 bytes.


class State(Enum):
    AWAITING_HELLO = "awaiting hello"
    GREETING = "greeting"
    SYNCING = "syncing"
    LIVE = "live"
    CLOSED = "closed"


class ServerSide:
    """One connection. Every call that returns effects wants them carried out in order."""

    __slots__ = (
        "_gets",
        "_in_flight",
        "_leaving",
        "_moved_s",
        "_opened_s",
        "_pinged_s",
        "_pings",
        "_sends",
        "_unsynced",
        "backlog",
        "draining",
        "expires_s",
        "features",
        "heard_s",
        "hello",
        "state",
    )

    def __init__(self, now_s: float) -> None:
        self.state = State.AWAITING_HELLO
        self.draining = False
        self.expires_s = math.inf  # When the token ends, and with it the connection.
        self.hello: Hello | None = None
        self.features: frozenset[str] = frozenset()
        self.backlog = Backlog()
        self.heard_s = self._opened_s = self._pinged_s = self._moved_s = now_s
        self._unsynced: dict[
            str, int
        ] = {}  # Conversation -> the sequence that ends its backlog.
        self._sends = self._gets = self._pings = 0
        self._in_flight: dict[str, int] = {}
        self._leaving = False

    @property
    def is_up(self) -> bool:
        """Whether the client has been welcomed and the connection is not closed."""
        return self.state is State.LIVE or self.state is State.SYNCING

    # --- frames in --------------------------------------------------------------------------

    def receive(
        self, frames: Iterable[ClientFrame | UnknownFrame], now_s: float
    ) -> list[Effect]:
        """What one WebSocket message of the client brings about."""
        self.heard_s = now_s
        effects: list[Effect] = []
        for frame in frames:
            if self.state is State.CLOSED:
                break
            if self.is_up:
                self._on_frame(frame, effects)
            else:
                self._on_early_frame(frame, effects)
        return effects

    def refuse(self, error: AngariumError) -> list[Effect]:
        """The connection cannot go on: say why, close with the code of the error table."""
        if self.state is State.CLOSED:
            return []
        return [
            Write(err_frame(0, error)),
            *self.hang_up(error.close_code, close_reason(error)),
        ]

    def hang_up(self, code: int, reason: str) -> list[Effect]:
        """Close once; a closed machine does nothing more."""
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        self.backlog.behind.clear()
        return [Hangup(code, reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore"))]

    def _on_early_frame(self, frame: ClientFrame | UnknownFrame, effects: list[Effect]) -> None:
        if isinstance(frame, Ping):
            effects.append(Write(Pong(frame.n)))
        elif self.state is State.AWAITING_HELLO and isinstance(frame, Hello):
            effects += self._on_hello(frame)
        elif isinstance(frame, Bye):
            effects += self.hang_up(CLOSE_NORMAL, "bye")
        else:
            effects += self.refuse(Malformed("hello comes first, then wait for welcome"))

    def _on_hello(self, hello: Hello) -> list[Effect]:
        if hello.v != VERSION:
            return self.refuse(UnsupportedVersion(f"this node speaks version {VERSION}"))
        if hello.resume is not None and len(hello.resume.cursors) > CONVERSATIONS_PER_HELLO_MAX:
            return self.refuse(Malformed(f"at most {CONVERSATIONS_PER_HELLO_MAX} cursors"))
        self.state, self.hello = State.GREETING, hello
        self.features = frozenset(
            each for each in hello.feat[:FEATURES_MAX] if len(each) <= FEATURE_CHARACTERS_MAX
        )
        self.backlog.offer_credit(*hello.win)
        return [Greet(hello)]

    def _on_frame(self, frame: ClientFrame | UnknownFrame, effects: list[Effect]) -> None:
        match frame:
            case Send():
                self._on_send(frame, effects)
            case Ack():
                self._on_ack(frame, effects)
            case Get():
                self._on_get(frame, effects)
            case Ping():
                effects.append(Write(Pong(frame.n)))
            case Pong():
                pass
            case Evt():
                self._on_event(frame, effects)
            case Part():
                self._on_part(frame, effects)
            case Bye():
                self._leaving = True
                effects += self._leave()
            case Hello():
                effects += self.refuse(Malformed("hello comes once"))
            case UnknownFrame():
                why = "this node does not know the frame type"
                effects.append(Write(err_frame(frame.id, Malformed(why))))
            case _:
                assert_never(frame)

    # --- sends ------------------------------------------------------------------------------

    def _on_send(self, send: Send, effects: list[Effect]) -> None:
        in_flight = self._in_flight.get(send.c, 0)
        if (
            self._sends >= SENDS_IN_FLIGHT_PER_CONNECTION
            or in_flight >= SENDS_IN_FLIGHT_PER_CONVERSATION
        ):
            effects.append(Write(err_frame(send.id, Busy("too many sends in flight", 100))))
            return
        try:
            check_send(send)
        except Refused as error:
            effects.append(Write(err_frame(send.id, error)))
            return
        self._sends += 1
        self._in_flight[send.c] = in_flight + 1
        effects.append(Append(send))

    def accepted(self, send: Send, result: Accepted) -> list[Effect]:
        """The message is durable."""
        ok = Ok(
            send.id,
            send.c,
            result.sequence,
            result.epoch,
            result.accepted_ms,
            result.duplicate,
        )
        return self._settled(send, ok)

    def rejected(self, send: Send, error: AngariumError) -> list[Effect]:
        """The message was not stored."""
        return self._settled(send, err_frame(send.id, error))

    def _settled(self, send: Send, answer: Ok | Err) -> list[Effect]:
        self._sends -= 1
        left = self._in_flight[send.c] - 1
        if left:
            self._in_flight[send.c] = left
        else:
            del self._in_flight[send.c]
        if self.state is State.CLOSED:
            return []
        if self._leaving:
            return [Write(answer), *self._leave()]
        return [Write(answer)]

    def _leave(self) -> list[Effect]:
        """After bye the answers to what is in flight still go out, then the close."""
        return [] if self._sends else self.hang_up(CLOSE_NORMAL, "bye")

    # --- acknowledgements, ranges, events -------------------------------------------------

    def _on_ack(self, ack: Ack, effects: list[Effect]) -> None:
        released = [self.backlog.acknowledge(c, sequence) for c, sequence in ack.a]
        if any(released):
            self._moved_s = self.heard_s
            effects.append(Pump())

    def _on_get(self, get: Get, effects: list[Effect]) -> None:
        if self._gets >= GETS_IN_FLIGHT_PER_CONNECTION:
            effects.append(Write(err_frame(get.id, Busy("too many ranges asked for", 100))))
        elif not 1 <= get.first <= get.last <= SEQUENCE_MAX:
            effects.append(Write(err_frame(get.id, Malformed("a range starts at 1 or later"))))
        else:
            self._gets += 1
            effects.append(Fetch(get))

    def fetched(self) -> None:
        """The answer to one `Fetch` is on its way."""
        self._gets -= 1

    def _on_event(self, event: Evt, effects: list[Effect]) -> None:
        if event.c not in self.backlog.cursors or event.kind == "presence":
            return  # Presence is for the node to tell; and nothing waits for an event.
        if event.kind in ("delivered", "read"):
            # Nobody has read what does not exist.
            event.s = min(event.s, self.backlog.cursors[event.c].head)
            if event.s < 1:
                return
        else:
            event.s = 0
        effects.append(Relay(event))

    def _on_part(self, part: Part, effects: list[Effect]) -> None:
        weight_bytes = len(part.ct) + sum(len(sealed.ct) for sealed in part.to)
        sound = 0 <= part.i <= SEQUENCE_MAX and len(part.ref) <= REF_CHARACTERS_MAX
        sound = sound and len(part.to) <= TO_MAX
        if sound and part.c in self.backlog.cursors and weight_bytes <= EVENT_BYTES_MAX:
            effects.append(Relay(part))

    # --- welcome and backlog ------------------------------------------------------------------

    def welcome(
        self, standing: Sequence[tuple[str, Head]], *, sid: str, node: str, now_ms: int
    ) -> list[Effect]:
        """The device is who it says; `standing` names each of its conversations and its head.

        Cursors of another epoch, or beyond the head, are void: those conversations start anew.
        """
        if self.state is not State.GREETING:
            return []
        resume = self.hello.resume if self.hello is not None else None
        cursors = resume.cursors if resume is not None else {}
        reason = "" if resume is not None else "no cursors"
        self.state = State.SYNCING
        for c, head in standing:
            epoch, sequence = cursors.get(c, (head.epoch, 0))
            if epoch != head.epoch or not 0 <= sequence <= head.sequence:
                sequence, reason = 0, "epoch_changed"
            self.backlog.enter(c, head, sequence)
            if sequence < head.sequence:
                self._unsynced[c] = head.sequence
        self.hello = None
        welcome = Welcome(
            sid=sid,
            node=node,
            hb=PING_EVERY_S,
            win=(self.backlog.credit_messages, self.backlog.credit_bytes),
            limits=Limits(
                FRAME_BYTES_MAX,
                CIPHERTEXT_BYTES_MAX,
                FRAMES_PER_ARRAY_MAX,
                SENDS_IN_FLIGHT_PER_CONNECTION,
                SENDS_IN_FLIGHT_PER_CONVERSATION,
            ),
            now=now_ms,
            resumed=not reason,
            reason=reason,
        )
        return [
            Write(welcome),
            *self._heads(list(self.backlog.cursors)),
            Pump(),
            *self._end_sync(),
        ]

    def _heads(self, conversations: Sequence[str]) -> list[Effect]:
        heads = [
            (c, self.backlog.cursors[c].epoch, self.backlog.cursors[c].head)
            for c in conversations
        ]
        return [
            Write(Heads(heads[at : at + HEADS_PER_FRAME]))
            for at in range(0, len(heads), HEADS_PER_FRAME)
        ]

    def _end_sync(self) -> list[Effect]:
        if self.state is not State.SYNCING or self._unsynced:
            return []
        self.state = State.LIVE
        return [*self._heads(list(self.backlog.cursors)), Write(SyncEnd(self.backlog.pushed))]

    # --- delivery -------------------------------------------------------------------------

    def follow(self, c: str, head: Head) -> list[Effect]:
        """The user takes part in `c` from now on; its log is delivered from the start."""
        if not self.is_up or c in self.backlog.cursors:
            return []
        self.backlog.enter(c, head, 0)
        return [*self._heads([c]), Pump()]

    def unfollow(self, c: str) -> list[Effect]:
        """The user takes part in `c` no more: nothing of it is delivered from here on."""
        if not self.backlog.leave(c):
            return []
        self._unsynced.pop(c, None)
        return [Pump()]

    def notice(self, c: str, head: Head) -> list[Effect]:
        """The log of `c` is known to reach `head`."""
        cursor = self.backlog.cursors.get(c)
        if cursor is None or not self.is_up:
            return []
        if head.epoch != cursor.epoch:
            return self.hang_up(CLOSE_RESYNC, "a conversation was restored; resume")
        return [Pump()] if self.backlog.raise_head(c, head) else []

    def pumped(self) -> list[Effect]:
        """Call after delivering: ends the backlog when all of it is on the wire."""
        if self.state is not State.SYNCING:
            return []
        cursors, behind = self.backlog.cursors, self.backlog.behind
        for c in list(self._unsynced):
            # What cannot be read now is not waited for: it comes live, once it can be.
            if cursors[c].sent < self._unsynced[c] and c in behind:
                return []
            del self._unsynced[c]
        return self._end_sync()

    # --- time ---------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Effect]:
        """Carry out what time alone brings about."""
        silent_s = now_s - self.heard_s
        if self.state is State.AWAITING_HELLO:
            late = now_s - self._opened_s >= HELLO_WAIT_S
            return self.refuse(Unauthenticated("no hello in time")) if late else []
        if self.state is State.CLOSED:
            return []
        if now_s >= self.expires_s:
            return self.refuse(TokenExpired("the bearer token has expired; get a new one"))
        if silent_s >= DEAD_AFTER_S:
            return self.hang_up(CLOSE_NO_PONG, "no pong")
        if self.backlog.has_credit or not self.backlog.behind:
            self._moved_s = now_s
        elif now_s - self._moved_s >= SLOW_CONSUMER_WAIT_S:
            return self.refuse(SlowConsumer("this device acknowledges nothing"))
        if now_s - self._pinged_s < PING_EVERY_S:
            return []
        self._pinged_s = now_s
        self._pings += 1
        return [Write(Ping(self._pings)), *self._heads(list(self.backlog.behind))]

    def go_away(self, spread_s: float, deadline_s: float) -> list[Effect]:
        """The node drains: the client opens a second connection elsewhere."""
        if self.draining or not self.is_up:
            return []
        self.draining = True
        return [Write(Goaway("drain", round(spread_s * 1000), round(deadline_s * 1000)))]
