"""What is told and forgotten: typing, presence, receipts as they happen, streamed parts.

Everything goes over the bus, to this node's own connections too, and has one chance. A
connection that is behind gets none of it.
"""

from collections.abc import Callable, Iterable
from typing import get_args

from angarium.bus.contract import Bus, Ephemeral, Event
from angarium.clock import Clock
from angarium.errors import AngariumError
from angarium.ids import ConversationId, UserId
from angarium.limits import EVENTS_BURST_S, TYPING_TTL_MS
from angarium.messaging.connection import Connection
from angarium.messaging.conversations import Live
from angarium.messaging.delivery import Delivery
from angarium.messaging.figures import Figures
from angarium.messaging.hub import Hub
from angarium.messaging.receipts import ReceiptFold
from angarium.protocol.codec import Codec, MsgpackCodec
from angarium.protocol.frames import EventKind, Evt, Part
from angarium.storage.contract import ReceiptKind

PRESENCE: EventKind = "presence"
EventRate = Callable[[UserId], float]
"""How many ephemeral frames a second each connection of this user may say."""
_RECEIPTS = get_args(ReceiptKind)


class Events:
    """The relay of ephemeral frames, both directions."""

    def __init__(
        self,
        *,
        hub: Hub,
        delivery: Delivery,
        bus: Bus,
        fold: ReceiptFold,
        figures: Figures,
        clock: Clock,
        rate: EventRate,
    ) -> None:
        self._hub, self._delivery, self._bus = hub, delivery, bus
        self._fold, self._figures = fold, figures
        self._clock, self._rate = clock, rate
        self._codec: Codec = MsgpackCodec()
        self.noted: Callable[[UserId, bool], None] = lambda user, on: None

    def relay(self, connection: Connection, frame: Evt | Part) -> None:
        """Pass on what a client says, within its rate; the node fills in who says it."""
        live = self._delivery.find(frame.c)
        if live is None:
            return
        receipt = isinstance(frame, Evt) and frame.kind in _RECEIPTS
        if isinstance(frame, Evt) and receipt:
            # Kept at any rate: the last mark of many has none after it that would cover it.
            kind: ReceiptKind = "read" if frame.kind == "read" else "delivered"
            self._fold.raise_mark(live.conversation.id, connection.user, kind, frame.s)
        if not self._within_rate(connection, frame):
            self._figures.events_dropped += 1
            return
        if isinstance(frame, Part):
            self._bus.publish(self._parts(connection, live, frame))
            return
        own = connection.user
        frame.ttl = max(0, min(frame.ttl, TYPING_TTL_MS))
        frame.sender, frame.dev = own, connection.device
        # A user's other devices want to know what was read, not who types.
        users = tuple(
            participant.user
            for participant in live.conversation.participants
            if participant.user != own or receipt
        )
        self.publish(live, users, frame)

    def _within_rate(self, connection: Connection, frame: Evt | Part) -> bool:
        """A bucket for each connection; a part costs one for each device it names."""
        rate, now_s = self._rate(connection.user), self._clock.monotonic_s()
        refilled = connection.events_left + (now_s - connection.events_s) * rate
        left = min(rate * EVENTS_BURST_S, refilled)
        cost = max(1, len(frame.to)) if isinstance(frame, Part) else 1
        connection.events_s = now_s
        connection.events_left = left - cost if left >= cost else left
        return left >= cost

    def told(self, event: Ephemeral) -> None:
        """The bus brings a frame: write it to whom it concerns, here."""
        connections = [
            connection
            for user in event.users
            for connection in self._hub.of_user(user)
            if event.conversation in connection.machine.backlog.cursors
            and event.device in (None, connection.device)
        ]
        if not connections:
            return
        try:
            frame = self._codec.decode_server(event.frame)[0]
        except (AngariumError, IndexError):
            return  # A node of another version; nothing depends on it.
        if isinstance(frame, Evt | Part):
            self.write(connections, frame)

    def _parts(self, connection: Connection, live: Live, part: Part) -> list[Event]:
        users = tuple(participant.user for participant in live.conversation.participants)
        pieces: list[tuple[str | None, bytes]] = [(each.dev, each.ct) for each in part.to]
        pieces = pieces or [(None, part.ct)]
        return [
            Ephemeral(
                live.conversation.id,
                users,
                self._codec.encode(
                    (
                        Part(
                            part.c,
                            part.ref,
                            part.i,
                            ct=ciphertext,
                            sender=connection.user,
                            dev=connection.device,
                        ),
                    )
                ),
                device,
            )
            for device, ciphertext in pieces
        ]

    def write(self, connections: Iterable[Connection], frame: Evt | Part) -> None:
        """Write it to these connections of this node, but for what may be dropped."""
        if isinstance(frame, Evt) and frame.kind == PRESENCE:
            self.noted(UserId(frame.sender), frame.on)
        self.tell_again(connections, frame)

    def tell_again(self, connections: Iterable[Connection], frame: Evt | Part) -> None:
        """The same, and nobody notes it."""
        encoded: dict[str, bytes] = {}
        presence = isinstance(frame, Evt) and frame.kind == PRESENCE
        for connection in connections:
            if not connection.machine.is_up or connection.device == frame.dev:
                continue
            if presence and PRESENCE not in connection.machine.features:
                continue
            if self._hub.is_behind(connection):
                self._figures.events_dropped += 1
                continue
            codec = connection.codec
            if codec.subprotocol not in encoded:
                encoded[codec.subprotocol] = codec.encode((frame,))
            self._hub.write_encoded(connection, encoded[codec.subprotocol])
            self._figures.events_relayed += 1

    def publish(self, live: Live, users: tuple[UserId, ...], frame: Evt) -> None:
        """Tell these users' connections, on every node."""
        c: ConversationId = live.conversation.id
        self._bus.publish([Ephemeral(c, users, self._codec.encode((frame,)))])
