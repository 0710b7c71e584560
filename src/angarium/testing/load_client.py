"""A light client for load: the product's own client machine, with random bytes for ciphertext.

Hundreds run in one process. What a client receives is checked against what its sender sealed
for exactly this device, and everything it does and sees goes into its history.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

import picows

from angarium.clock import SystemClock
from angarium.errors import Unavailable
from angarium.ids import uuid7
from angarium.limits import (
    CIPHERTEXT_BYTES_MAX,
    FRAME_BYTES_MAX,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
)
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.codec import MsgpackCodec, messages_of
from angarium.protocol.effects import (
    CloseLink,
    Deliver,
    Effect,
    Ended,
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
from angarium.protocol.frames import AnyFrame, Msg, Sealed
from angarium.protocol.outflow import Outgoing
from angarium.sdk.transport import ABNORMAL
from angarium.testing.histories import ClientHistory, Got, Offline, Sent

Pick = Callable[[Collection[str]], str]
"""pick(excluding) -> the WebSocket URL of a node to connect to. Raises Unavailable."""

OPEN_WAIT_S = 5.0
TAG_BYTES = 16
_CODEC = MsgpackCodec()  # Stateless: one for all clients.
_FILLER = hashlib.shake_256(b"filler").digest(CIPHERTEXT_BYTES_MAX)
_LOG = logging.LoggerAdapter(logging.getLogger("angarium.load"), {})


class LoadClient:
    """One device. `join` its conversations, `start`, `say`, `close`."""

    def __init__(
        self,
        *,
        user: str,
        device: str,
        token: str,
        pick: Pick,
        seed: int = 1,
        reconnect_s: tuple[float, float] = (RECONNECT_MIN_S, RECONNECT_MAX_S),
    ) -> None:
        self.user, self.device = user, device
        self.history = ClientHistory(user, device)
        self.live = asyncio.Event()
        self.cursors: dict[str, int] = {}
        self.on_stored: Callable[[LoadClient, str], None] | None = None
        self._token, self._pick = token, pick
        self._chance = random.Random(f"{seed}/{device}")  # noqa: S311 - load, not a secret
        self._machine = ClientMachine(
            device=device,
            random=self._chance.random,
            app="load",
            reconnect_s=reconnect_s,
        )
        self._rosters: dict[str, tuple[str, ...]] = {}
        self._counters: dict[str, int] = {}
        self._open: dict[str, tuple[Sent, int]] = {}  # Key -> what was said, its size.
        self._links: dict[int, _Socket] = {}
        self._urls: dict[int, str] = {}
        self._avoid: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0
        self._was_up = self._ever_live = self._closing = False
        self._loop, self._clock = asyncio.get_running_loop(), SystemClock()
        self._now_s = self._clock.monotonic_s

    # --- what the load asks ---------------------------------------------------------------

    def join(self, conversation: str, devices: Collection[str]) -> None:
        """Take part in a conversation whose devices, all of them, are `devices`."""
        self._rosters[conversation] = tuple(d for d in devices if d != self.device)

    @property
    def conversations(self) -> Sequence[str]:
        return tuple(self._rosters)

    @property
    def unconfirmed(self) -> int:
        return len(self._open)

    @property
    def online(self) -> bool:
        """Whether a connection is welcomed and, as far as this end knows, stands."""
        return self._was_up

    @property
    def urls(self) -> set[str]:
        """Where its connections are."""
        return {self._urls[link] for link in self._links}

    def start(self) -> None:
        self._act(self._machine.start(self._now_s()))

    def say(self, conversation: str, size_bytes: int = 300) -> str:
        """Submit one message, whether or not there is a connection; returns its key."""
        now_s = self._now_s()
        key = uuid7(self._clock.now_ms(), self._chance.randbytes)
        cs = self._counters[conversation] = self._counters.get(conversation, 0) + 1
        sent = Sent(conversation, key, now_s)
        self.history.sent.append(sent)
        self._open[key] = (sent, size_bytes)
        to = self._seal(key, self._rosters[conversation], size_bytes)
        self._act(self._machine.submit(Outgoing(conversation, key, cs, to), now_s))
        return key

    def stop_reading(self) -> None:
        """Read nothing more from the connections it has now; TCP tells the node."""
        for socket in self._links.values():
            socket.stop_reading()

    def sever(self) -> None:
        """Lose the connections it has now, as a device does that leaves its network."""
        for socket in self._links.values():
            socket.sever()

    async def close(self) -> None:
        """Acks leave, then bye."""
        self._closing = True
        self._act(self._machine.stop(self._now_s()))
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for socket in self._links.values():
            socket.close(1000)
        self._links.clear()

    # --- carrying out effects -------------------------------------------------------------

    def _act(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)
        self._note_state()
        self._arm()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Transmit():
                self._transmit(effect.link, effect.frames)
            case Deliver():
                self._keep(effect.messages)
            case Stored():
                self._stored(effect)
            case OpenLink():
                self._spawn(self._connect(effect.link))
            case CloseLink():
                self._hang_up(effect)
            case Live():
                self._became_live()
            case SendRefused():
                sent, _ = self._open.pop(effect.key)
                sent.refused = effect.error.code
            case Renumbered():
                self._renumber(effect)
            case Reseal():
                self._reseal(effect)
            case Ended():
                self.history.ended = effect.error.code
                self.live.set()  # Whoever waits for it looks at `ended`.
            case EpochBegan() | Skipped():
                what = f"{type(effect).__name__} in {effect.c}"
                self.history.defects.append(what)  # No load restores or purges a log.

    def _transmit(self, link: int, frames: Sequence[AnyFrame]) -> None:
        socket = self._links.get(link)
        if socket is None:
            return
        for payload in messages_of(_CODEC, [_CODEC.encode((frame,)) for frame in frames]):
            socket.send(payload)

    def _keep(self, messages: Sequence[Msg]) -> None:
        now_s = self._now_s()
        history = self.history
        for message in messages:
            history.received.append(
                Got(message.c, message.s, message.key, message.sender, message.dev, now_s)
            )
            foreign = message.dev != self.device
            if foreign and message.ct[:TAG_BYTES] != _tag(message.key, self.device):
                history.misdelivered.append(f"{message.c}/{message.s} was sealed for another")
            self.cursors[message.c] = message.s
        last = messages[-1]
        self._act(self._machine.committed(last.c, last.s, len(messages), now_s))

    def _stored(self, effect: Stored) -> None:
        sent, _ = self._open.pop(effect.key)
        sent.acked_s, sent.sequence = self._now_s(), effect.sequence
        if self.on_stored is not None:
            self.on_stored(self, effect.c)

    def _renumber(self, effect: Renumbered) -> None:
        """What moved up or down ends the queue, so the next counter follows its last."""
        self._counters[effect.c] = max(number for _, number in effect.moved)

    def _reseal(self, effect: Reseal) -> None:
        known = set(self._rosters[effect.c]).union(effect.missing).difference(effect.extra)
        self._rosters[effect.c] = tuple(sorted(known))
        _, size_bytes = self._open[effect.key]
        to = self._seal(effect.key, self._rosters[effect.c], size_bytes)
        self._act(self._machine.resealed(effect.c, effect.key, to, self._now_s()))

    def _seal(self, key: str, devices: Sequence[str], size_bytes: int) -> list[Sealed]:
        filler = _FILLER[: max(0, size_bytes - TAG_BYTES)]
        return [Sealed(device, _tag(key, device) + filler) for device in devices]

    # --- connections ----------------------------------------------------------------------

    async def _connect(self, link: int) -> None:
        url = ""
        try:
            url = self._pick(self._avoid)
            socket = await _open(
                url, partial(self._on_message, link), partial(self._on_close, link)
            )
        except Unavailable:
            # As a load balancer does: the next try goes to another node.
            self._avoid = {url} if url else set()
            self.history.refused_connections += 1
            self._on_close(link, ABNORMAL, "")
            return
        self._avoid = set()
        self._links[link], self._urls[link] = socket, url
        self._act(self._machine.opened(link, self._token, self._now_s()))

    def _on_message(self, link: int, payload: bytes) -> None:
        if link not in self._links:
            return
        try:
            frames = _CODEC.decode_server(payload)
            self._act(self._machine.received(link, frames, self._now_s()))
        except Exception as error:
            # The connection ends by it; the verdict must say why.
            self.history.defects.append(f"{type(error).__name__}: {error}")
            raise

    def _on_close(self, link: int, code: int, reason: str) -> None:
        self._links.pop(link, None)
        self.history.closes.append((self._now_s(), code))
        self._act(self._machine.closed(link, code, reason, self._now_s()))

    def _hang_up(self, effect: CloseLink) -> None:
        socket = self._links.pop(effect.link, None)
        if socket is not None:
            socket.close(effect.code)
        if self._links and not self._closing:
            self.history.handovers += 1

    # --- state and time -------------------------------------------------------------------

    def _became_live(self) -> None:
        lost = self.history.offline[-1] if self.history.offline else None
        if lost is not None and lost.live_s is None:
            lost.live_s = self._now_s()
        self._ever_live = True
        self.live.set()

    def _note_state(self) -> None:
        is_up = self._machine.state in ("syncing", "live", "migrating")
        if is_up == self._was_up or self._closing:
            return
        self._was_up = is_up
        now_s, offline = self._now_s(), self.history.offline
        if is_up:
            if offline and offline[-1].up_s is None:
                offline[-1].up_s = now_s
        elif self._ever_live:
            if not offline or offline[-1].live_s is not None:
                offline.append(Offline(now_s))
            else:
                # Lost again before it was live: one outage, not two.
                offline[-1].up_s = None
            self.live.clear()

    def _arm(self) -> None:
        """One timer, set anew only when it would come too late."""
        now_s = self._now_s()
        due_s = None if self._closing else self._machine.due_s(now_s)
        if due_s is None:
            return
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - now_s), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._act(self._machine.tick(self._now_s()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closing:
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.history.defects.append(f"{type(error).__name__}: {error}")


def _tag(key: str, device: str) -> bytes:
    """What every ciphertext begins with, so that a receiver knows it is meant."""
    return hashlib.blake2b(f"{key}/{device}".encode(), digest_size=TAG_BYTES).digest()


class _Socket(picows.WSListener):
    """A WebSocket connection of picows; reports its end once, from the loop."""

    def __init__(
        self, on_message: Callable[[bytes], None], on_close: Callable[[int, str], None]
    ) -> None:
        super().__init__()
        self._on_message, self._on_close = on_message, on_close
        self._transport: Any = None
        self._end = (ABNORMAL, "")
        self._silent = False

    def send(self, payload: bytes) -> None:
        if not self._transport.is_disconnected:
            self._transport.send(picows.WSMsgType.BINARY, payload)

    def close(self, code: int) -> None:
        self._silent = True
        if not self._transport.is_disconnected:
            self._transport.send_close(code)
            self._transport.disconnect()

    def stop_reading(self) -> None:
        self._transport.underlying_transport.pause_reading()

    def sever(self) -> None:
        self._transport.disconnect(False)

    def on_ws_connected(self, transport: Any) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            self._end = (
                int(frame.get_close_code() or ABNORMAL),
                str(frame.get_close_reason() or ""),
            )
            transport.send_close(frame.get_close_code() or 1000)
            transport.disconnect()
        elif frame.msg_type == picows.WSMsgType.BINARY:
            self._on_message(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: Any) -> None:
        if not self._silent:
            asyncio.get_running_loop().call_soon(self._on_close, *self._end)


async def _open(
    url: str, on_message: Callable[[bytes], None], on_close: Callable[[int, str], None]
) -> _Socket:
    """Raises Unavailable."""
    try:
        _, listener = await picows.ws_connect(
            lambda: _Socket(on_message, on_close),
            url,
            websocket_handshake_timeout=OPEN_WAIT_S,
            max_frame_size=FRAME_BYTES_MAX * 3,
            extra_headers={"Sec-WebSocket-Protocol": _CODEC.subprotocol},
            logger_name=_LOG,
        )
    except (TimeoutError, OSError, picows.WSError) as error:
        raise Unavailable(f"the relay does not answer: {type(error).__name__}") from None
    opened: Any = listener
    return opened  # type: ignore[no-any-return]
