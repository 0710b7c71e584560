"""Who writes next where several nodes write to one conversation. A courtesy, no lock: whoever
does not keep it only loses a race for a sequence.

Every message's id names the node that wrote it, so all nodes see the same last writer. Those
that wrote lately form a ring in the order of their names; after the last writer its successor
goes first, and each of the others waits as long as the ones before it need. Who always wins
meets nobody, so after a streak it leaves a gap, in which a loser wins and is met.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from itertools import count

from bson import ObjectId

from angarium.ids import DeviceId
from angarium.limits import (
    MONGO_RIVAL_S,
    MONGO_STREAK_MAX,
    MONGO_STREAK_MIN,
    MONGO_YIELD_MAX_S,
    PARTICIPANTS_MAX,
)

_NAME = slice(4, 9)  # Where an ObjectId names the process that made it.


class Ids:
    """Ids of messages; `name` is this node's, in each of them."""

    def __init__(self) -> None:
        self.name = secrets.token_bytes(5)
        self._numbers = count(secrets.randbits(24))

    def make(self) -> ObjectId:
        second = int(time.time()) & 0xFFFFFFFF
        number = next(self._numbers) & 0xFFFFFF
        return ObjectId(second.to_bytes(4, "big") + self.name + number.to_bytes(3, "big"))


@dataclass(slots=True)
class Ring:
    """The nodes that write to one conversation, as `me` sees them. Times are the loop's."""

    me: bytes
    last: bytes = b""
    took_s: float = 0.0
    streak: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # Another node has written.
    _streak_max: int = MONGO_STREAK_MIN
    _seen_s: dict[bytes, float] = field(default_factory=dict)
    _nodes: dict[DeviceId, bytes] = field(default_factory=dict)

    def saw(self, device: DeviceId, written: ObjectId, now_s: float) -> None:
        """Another node's message, by the id it has in the store."""
        self._nodes[device] = written.binary[_NAME]
        while len(self._nodes) > PARTICIPANTS_MAX:
            del self._nodes[next(iter(self._nodes))]
        self.told(device, now_s)

    def told(self, device: DeviceId, now_s: float) -> None:
        """Another node's message, by its sender: perhaps of a node without a name yet."""
        self.last = self._nodes.get(device, b"")
        self._seen_s[self.last] = now_s
        self._streak_max = MONGO_STREAK_MIN
        self.moved.set()

    def wrote(self, took_s: float) -> None:
        """A message of ours was stored, in so long."""
        self.last, self.took_s = self.me, took_s
        self.streak += 1

    def rivals(self, now_s: float) -> list[bytes]:
        """The other nodes that wrote lately."""
        self._seen_s = {
            name: at_s for name, at_s in self._seen_s.items() if now_s - at_s < MONGO_RIVAL_S
        }
        return [name for name in self._seen_s if name != self.me]

    def pause_s(self, now_s: float) -> float:
        """How long to let others go first."""
        rivals = self.rivals(now_s)
        if not rivals:
            return self._gap_s()
        names = sorted({self.me, *rivals})
        if self.last not in names:
            return 0.0
        ahead = (names.index(self.me) - names.index(self.last) - 1) % len(names)
        return min(MONGO_YIELD_MAX_S, ahead * self.took_s)

    def _gap_s(self) -> float:
        if self.streak < self._streak_max:
            return 0.0
        self.streak, self._streak_max = 0, min(MONGO_STREAK_MAX, 2 * self._streak_max)
        return min(MONGO_YIELD_MAX_S, 2 * self.took_s)
