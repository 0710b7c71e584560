"""One live WebSocket: its machine, who is at the other end, and what waits to be written."""

import math
from collections import deque
from dataclasses import dataclass

from angarium.ids import DeviceId, UserId
from angarium.protocol.codec import Codec
from angarium.protocol.frames import Send, ServerFrame
from angarium.protocol.server_side import ServerSide


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Whose token it is, and when it expires (0: never)."""

    user: UserId
    expires_ms: int = 0


NOBODY = UserId("")
NO_DEVICE = DeviceId("")


class Connection:
    """State only: the hub owns the socket, the machine owns the protocol.

    `parked` are sends that the limiter slows down; `reading` says that a range read for this
    connection is under way or waits its turn.
    """

    __slots__ = (
        "codec",
        "device",
        "displaced_epoch",
        "drained_bytes",
        "epoch",
        "events_left",
        "events_s",
        "joined",
        "machine",
        "moved_s",
        "number",
        "out",
        "parked",
        "reading",
        "user",
        "written_bytes",
    )

    def __init__(self, number: int, codec: Codec, machine: ServerSide) -> None:
        self.number, self.codec, self.machine = number, codec, machine
        self.user, self.device = NOBODY, NO_DEVICE
        self.out: list[bytes] = []
        self.parked: deque[Send] = deque()
        self.joined: set[str] = set()  # Conversations entered while the hello was worked on.
        self.reading = False
        self.written_bytes = self.drained_bytes = 0
        self.moved_s = 0.0
        self.epoch = self.displaced_epoch = 0  # Of the connection registry; 0: not known.
        self.events_left, self.events_s = math.inf, 0.0  # Filled at the first event.

    def encode(self, frame: ServerFrame) -> bytes:
        return self.codec.encode((frame,))
