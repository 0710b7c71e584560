"""One live WebSocket: its machine, who is at the other end, and what waits to be written."""

import math
from collections import deque
from collections.abc import Sequence

from angarium.ids import DeviceId, UserId
from angarium.limits import FRAME_BYTES_MAX, FRAMES_PER_ARRAY_MAX
from angarium.protocol.codec import Codec
from angarium.protocol.frames import Send, ServerFrame
from angarium.protocol.server_side import ServerSide

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
        "drained_bytes",
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
        self.events_left, self.events_s = math.inf, 0.0  # Filled at the first event.

    def encode(self, frame: ServerFrame) -> bytes:
        return self.codec.encode((frame,))


def messages_of(codec: Codec, encoded: Sequence[bytes]) -> list[bytes]:
    """WebSocket messages for these frames: few, and over the limits only where one frame is."""
    found: list[bytes] = []
    start = size = 0
    for at, frame in enumerate(encoded):
        full = at - start >= FRAMES_PER_ARRAY_MAX or size + len(frame) > FRAME_BYTES_MAX
        if full and at > start:
            found.append(codec.join(encoded[start:at]))
            start, size = at, 0
        size += len(frame)
    if start < len(encoded):
        found.append(codec.join(encoded[start:]))
    return found
