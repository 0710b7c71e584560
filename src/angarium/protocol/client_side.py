"""The client's half of `angarium.1`: frames and time in, effects out. No IO, no clock.

    disconnected -> greeting -> syncing -> live -> migrating -> live
                        ^___________________________|  (a second link during a drain)

The machine names links by number. Its driver carries out effects in order and reports back with
`opened`, `received`, `closed`; it calls `tick` when `due_s` has come.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from angarium.errors import AngariumError, Replaced
from angarium.limits import (
    ACK_DELAY_S,
    ACK_MESSAGES_MAX,
    CONVERSATIONS_PER_HELLO_MAX,
    CREDIT_BYTES,
    CREDIT_MESSAGES,
    FRAMES_PER_ARRAY_MAX,
    GET_WAIT_S,
)
from angarium.protocol.codec import UnknownFrame
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
from angarium.protocol.frames import (
    VERSION,
    Ack,
    AnyFrame,
    Bye,
    Err,
    Evt,
    Get,
    Goaway,
    Heads,
    Hello,
    Msg,
    Ok,
    Part,
    Ping,
    Pong,
    Range,
    Resume,
    Sealed,
    ServerFrame,
    SyncEnd,
    Welcome,
)
from angarium.protocol.link import RECONNECT_S, Link, backoff_s, terminal_error
from angarium.protocol.outflow import Outflow, Outgoing, refusal
from angarium.protocol.sequence import Intake

ClientState = Literal["disconnected", "greeting", "syncing", "live", "migrating", "stopped"]


class ClientMachine:
    """One device's side. `cursors` maps conversation -> (epoch, newest committed sequence).

    `reconnect_s`: the shortest and the longest pause before a new connection."""

    def __init__(
        self,
        *,
        device: str,
        random: Callable[[], float],
        cursors: Mapping[str, tuple[int, int]] | None = None,
        app: str = "",
        features: Sequence[str] = (),
        reconnect_s: tuple[float, float] = RECONNECT_S,
    ) -> None:
        self._reconnect_s = reconnect_s
        self._device, self._app, self._features = device, app, list(features)
        self._random = random
        self._request = 0
        self._outflow = Outflow(self._next_request, random)
        self._intakes = {c: Intake(e, s) for c, (e, s) in (cursors or {}).items()}
        self._committed = {c: s for c, (_, s) in (cursors or {}).items()}
        self._behind: set[str] = set()
        self._gets: dict[str, tuple[int, float]] = {}  # conversation -> (request, asked at)
        self._unacked: dict[str, int] = {}
        self._unacked_messages = 0
        self._ack_due_s: float | None = None
        self._current: Link | None = None
        self._second: Link | None = None
        self._links = 0
        self._failures = 0
        self._reopen_due_s: float | None = None
        self._second_due_s: float | None = None
        self._fresh_token = False
        self._sid = ""
        self._stopped = False

    # --- what the driver asks ---------------------------------------------------------------

    @property
    def state(self) -> ClientState:
        if self._stopped:
            return "stopped"
        if self._current is None or self._current.phase == "opening":
            return "disconnected"
        if self._second is not None or self._second_due_s is not None:
            return "migrating"
        return self._current.phase

    def due_s(self, now_s: float) -> float | None:
        """When `tick` is wanted next, on the scale of `now_s`."""
        due = [self._reopen_due_s, self._second_due_s, self._outflow.next_due_s(now_s)]
        if self._current and self._current.phase in ("syncing", "live"):
            due.append(self._ack_due_s)
            due += [asked_s + GET_WAIT_S for _, asked_s in self._gets.values()]
        due += [link.deadline_s() for link in self._open_links()]
        return min((moment for moment in due if moment is not None), default=None)

    def unconfirmed(self) -> int:
        """How many sends the relay has not confirmed."""
        return len(self._outflow)

    # --- what the driver reports ------------------------------------------------------------

    def start(self, now_s: float) -> list[Effect]:
        return [self._open(now_s)]

    def stop(self, now_s: float) -> list[Effect]:
        """Clean end: acks leave, then bye."""
        effects = self._flush_acks() if self._is_up() else []
        self._stopped = True
        for link in self._open_links():
            if link.phase != "opening":
                effects.append(Transmit(link.number, [Bye()]))
            effects.append(CloseLink(link.number))
        self._current = self._second = None
        self._reopen_due_s = self._second_due_s = self._ack_due_s = None
        return effects

    def opened(self, link: int, token: str, now_s: float) -> list[Effect]:
        """The connection stands; the hello leaves."""
        found = self._link(link)
        if found is None:
            return [CloseLink(link)]
        found.phase, found.heard_s = "greeting", now_s
        cursors = {
            c: (intake.epoch, self._committed.get(c, 0))
            for c, intake in self._intakes.items()
            if intake.epoch
        }
        newest = dict(list(cursors.items())[-CONVERSATIONS_PER_HELLO_MAX:])
        hello = Hello(
            v=VERSION,
            dev=self._device,
            tok=token,
            app=self._app,
            feat=self._features,
            resume=Resume(newest, self._sid),
            win=(CREDIT_MESSAGES, CREDIT_BYTES),
        )
        return [Transmit(link, [hello])]

    def received(
        self, link: int, frames: Iterable[ServerFrame | UnknownFrame], now_s: float
    ) -> list[Effect]:
        found = self._link(link)
        if found is None:
            return []
        found.heard_s = now_s
        effects: list[Effect] = []
        for frame in frames:
            effects += self._on_frame(found, frame, now_s)
        return effects + self._pump(now_s)

    def closed(self, link: int, code: int, reason: str, now_s: float) -> list[Effect]:
        """The connection ended or could not be opened (then with code 1006)."""
        found = self._link(link)
        if found is None or self._stopped:
            return []
        if code >= 4400:
            if (
                found is self._second
                and self._current is not None
                and code == Replaced.close_code
            ):
                self._second = None
                return []
            return self._end(terminal_error(code, reason))
        if 4100 <= code < 4200:
            self._fresh_token = True
        delay_s = backoff_s(self._failures, code, reason, self._random, self._reconnect_s)
        self._failures += 1
        if found is self._second:
            self._second, self._second_due_s = None, now_s + delay_s
            return []
        self._outflow.lost_connection()
        self._gets.clear()
        self._current, self._second = self._second, None
        if self._current is None:
            self._second_due_s, self._reopen_due_s = None, now_s + delay_s
        return []

    def tick(self, now_s: float) -> list[Effect]:
        """Carry out what time alone brings about."""
        effects: list[Effect] = []
        for link in self._open_links():
            if now_s >= link.deadline_s():
                effects.append(CloseLink(link.number, 4012))
                effects += self.closed(link.number, 4012, "", now_s)
        if self._reopen_due_s is not None and now_s >= self._reopen_due_s:
            self._reopen_due_s = None
            effects.append(self._open(now_s))
        if self._second_due_s is not None and now_s >= self._second_due_s:
            self._second_due_s = None
            self._second = self._new_link(now_s)
            effects.append(OpenLink(self._second.number, self._take_fresh_token()))
        if self._is_up():
            if self._ack_due_s is not None and now_s >= self._ack_due_s:
                effects += self._flush_acks()
            effects += self._pump(now_s)
        return effects

    # --- what the program asks --------------------------------------------------------------

    def submit(self, send: Outgoing, now_s: float) -> list[Effect]:
        """Queue a send whose ciphertext and counter are durable."""
        self._outflow.add(send)
        return self._pump(now_s)

    def resealed(self, c: str, key: str, to: Sequence[Sealed], now_s: float) -> list[Effect]:
        """The answer to `Reseal`: new ciphertexts under the same key."""
        send = self._outflow.find(c, key)
        if send is not None and send.state == "resealing":
            send.to, send.state = tuple(to), "waiting"
        return self._pump(now_s)

    def withdraw(self, c: str, key: str, now_s: float) -> list[Effect]:
        """Give a send up; later ones of the conversation move up."""
        send = self._outflow.find(c, key)
        return [*self._drop(send), *self._pump(now_s)] if send else []

    def committed(self, c: str, sequence: int, messages: int, now_s: float) -> list[Effect]:
        """The program has stored everything of `c` up to `sequence` (`messages` new ones)."""
        self._committed[c] = sequence
        self._note(c, sequence, messages, now_s)
        if self._unacked_messages >= ACK_MESSAGES_MAX and self._is_up():
            return self._flush_acks()
        return []

    def ephemeral(self, frame: Evt | Part) -> list[Effect]:
        """Send it now or never."""
        return [Transmit(self._up().number, [frame])] if self._is_up() else []

    # --- frames -----------------------------------------------------------------------------

    def _on_frame(
        self, link: Link, frame: ServerFrame | UnknownFrame, now_s: float
    ) -> list[Effect]:
        match frame:
            case Msg():
                return self._on_messages(frame.c, frame.e, [frame], now_s)
            case Range():
                return self._on_range(frame, now_s)
            case Ok():
                send = self._outflow.by_id(frame.id)
                return self._stored(send, frame.s) if send else []
            case Err():
                return self._on_err(link, frame, now_s)
            case Heads():
                return self._on_heads(frame)
            case Welcome():
                return self._on_welcome(link, frame)
            case SyncEnd():
                link.phase, self._failures = "live", 0
                return [Live()] if link is self._current else []
            case Goaway():
                if link is self._current and self._second is None:
                    self._second_due_s = now_s + self._random() * frame.spread_ms / 1000
                return []
            case Ping():
                return [Transmit(link.number, [Pong(frame.n)])]
            case Evt() | Part():
                return [Ephemeral(frame)]
            case _:
                return []

    def _on_welcome(self, link: Link, welcome: Welcome) -> list[Effect]:
        link.phase, self._sid = "syncing", welcome.sid
        self._outflow.limit_conversation = welcome.limits.in_flight_c
        self._outflow.limit_connection = welcome.limits.in_flight
        effects: list[Effect] = []
        if link is self._second and self._current is not None:
            # Make before break: the new link is resumed, only now does the old one end.
            old, self._current, self._second = self._current, link, None
            self._outflow.lost_connection()
            if old.phase in ("syncing", "live"):
                effects.append(Transmit(old.number, [Bye()]))
            effects.append(CloseLink(old.number))
        self._gets.clear()
        if self._unacked:
            effects += self._flush_acks()
        return effects

    def _on_messages(
        self, c: str, epoch: int, messages: Sequence[Msg], now_s: float
    ) -> list[Effect]:
        effects = self._enter(c, epoch)
        committed = self._committed.get(c, 0)
        repeated = sum(message.s <= committed for message in messages)
        if repeated:
            # The relay did not know that they are here; unacknowledged they use up its credit.
            self._note(c, committed, repeated, now_s)
        ready = self._intakes[c].take(messages)
        self._behind.add(c)
        if ready:
            effects.append(Deliver(ready))
        for message in ready:
            if message.dev == self._device:
                send = self._outflow.find(c, message.key)
                effects += self._stored(send, message.s) if send else []
        return effects

    def _on_range(self, answer: Range, now_s: float) -> list[Effect]:
        if self._gets.get(answer.c, (0, 0.0))[0] == answer.id:
            del self._gets[answer.c]
        effects = self._enter(answer.c, answer.e)
        effects += self._skip(answer.c, answer.floor)
        return effects + self._on_messages(answer.c, answer.e, answer.msgs, now_s)

    def _skip(self, c: str, floor: int) -> list[Effect]:
        intake = self._intakes.get(c)
        if intake is None or floor - 1 <= intake.cursor:
            return []
        effects: list[Effect] = [Skipped(c, floor)]
        ready = intake.skip_below(floor)
        return [*effects, Deliver(ready)] if ready else effects

    def _on_heads(self, heads: Heads) -> list[Effect]:
        effects: list[Effect] = []
        for c, epoch, sequence in heads.h:
            effects += self._enter(c, epoch)
            self._intakes[c].saw_head(sequence)
            self._behind.add(c)
        return effects

    def _enter(self, c: str, epoch: int) -> list[Effect]:
        intake = self._intakes.setdefault(c, Intake())
        other = intake.is_other_epoch(epoch)
        intake.enter_epoch(epoch)
        if not other:
            return []
        self._committed[c] = 0
        self._outflow.forget(c)
        self._unacked.pop(c, None)
        self._gets.pop(c, None)
        return [EpochBegan(c, epoch)]

    def _on_err(self, link: Link, err: Err, now_s: float) -> list[Effect]:
        asked = next((c for c, (request, _) in self._gets.items() if request == err.id), None)
        if asked is not None and err.id:
            if err.floor:
                del self._gets[asked]
                return self._skip(asked, err.floor)
            return []  # Asked again when its time is out.
        send = self._outflow.by_id(err.id)
        if send is None:
            return []
        verdict = self._outflow.judge(send, err, now_s)
        if verdict == "accepted":
            return self._stored(send, 0)
        if verdict == "reseal":
            return [Reseal(send.c, send.key, tuple(err.missing), tuple(err.extra))]
        if verdict == "refused":
            return [SendRefused(send.c, send.key, refusal(err)), *self._drop(send)]
        if verdict == "reset":
            return [CloseLink(link.number), *self.closed(link.number, 4010, "", now_s)]
        if err.expect_cs:
            moved = self._outflow.expect(send.c, err.expect_cs)
            return [Renumbered(send.c, tuple(moved))] if moved else []
        return []

    def _stored(self, send: Outgoing, sequence: int) -> list[Effect]:
        self._outflow.stored(send)
        return [Stored(send.c, send.key, sequence)]

    def _drop(self, send: Outgoing) -> list[Effect]:
        self._outflow.remove(send)
        moved = self._outflow.close_up(send.c, send.cs)
        return [Renumbered(send.c, tuple(moved))] if moved else []

    # --- links and time ---------------------------------------------------------------------

    def _pump(self, now_s: float) -> list[Effect]:
        """Everything that may leave now: sends within the limits and requests for gaps."""
        if not self._is_up():
            return []
        frames: list[AnyFrame] = [*self._outflow.ready(now_s)]
        for c in sorted(self._behind):
            intake = self._intakes[c]
            _, asked_s = self._gets.get(c, (0, -GET_WAIT_S))
            gap = self._wanted(c, intake, now_s - asked_s >= GET_WAIT_S)
            if gap is not None:
                self._gets[c] = (self._next_request(), now_s)
                frames.append(Get(self._gets[c][0], c, *gap))
        link = self._up().number
        return [
            Transmit(link, frames[at : at + FRAMES_PER_ARRAY_MAX])
            for at in range(0, len(frames), FRAMES_PER_ARRAY_MAX)
        ]

    def _wanted(self, c: str, intake: Intake, may_ask: bool) -> tuple[int, int] | None:
        gap = intake.gap()
        if gap is None:
            self._gets.pop(c, None)
            self._behind.discard(c)
            return None
        # While the backlog streams, a head above the cursor is no loss: only a hole is.
        if not may_ask or (self._up().phase == "syncing" and not intake.held):
            return None
        return gap

    def _note(self, c: str, sequence: int, messages: int, now_s: float) -> None:
        """An acknowledgement is due soon."""
        self._unacked[c] = sequence
        self._unacked_messages += messages
        if self._ack_due_s is None:
            self._ack_due_s = now_s + ACK_DELAY_S

    def _flush_acks(self) -> list[Effect]:
        acks = list(self._unacked.items())
        self._unacked, self._unacked_messages, self._ack_due_s = {}, 0, None
        return [Transmit(self._up().number, [Ack(acks)])] if acks else []

    def _open(self, now_s: float) -> OpenLink:
        self._current = self._new_link(now_s)
        return OpenLink(self._current.number, self._take_fresh_token())

    def _new_link(self, now_s: float) -> Link:
        self._links += 1
        return Link(self._links, "opening", now_s)

    def _take_fresh_token(self) -> bool:
        fresh, self._fresh_token = self._fresh_token, False
        return fresh

    def _end(self, error: AngariumError) -> list[Effect]:
        effects: list[Effect] = [CloseLink(link.number) for link in self._open_links()]
        self._stopped, self._current, self._second = True, None, None
        self._reopen_due_s = self._second_due_s = self._ack_due_s = None
        return [*effects, Ended(error)]

    def _open_links(self) -> list[Link]:
        return [link for link in (self._current, self._second) if link is not None]

    def _link(self, number: int) -> Link | None:
        return next((link for link in self._open_links() if link.number == number), None)

    def _is_up(self) -> bool:
        return self._current is not None and self._current.phase in ("syncing", "live")

    def _up(self) -> Link:
        assert self._current is not None  # noqa: S101  # `_is_up` was asked.
        return self._current

    def _next_request(self) -> int:
        self._request += 1
        return self._request
