"""Messages after the fact: the recent ones in memory, older ones by ranges from the store."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from angarium.ids import ConversationId, DeviceId
from angarium.limits import FRAME_BYTES_MAX, RECENT_BYTES_MAX, RECENT_MESSAGES
from angarium.model.message import Accepted, NewMessage, StoredMessage
from angarium.protocol.backlog import MESSAGE_OVERHEAD_BYTES
from angarium.protocol.frames import Msg, Range

_RANGE_BYTES_MAX = FRAME_BYTES_MAX - 4096


def stored(message: NewMessage, result: Accepted) -> StoredMessage:
    """The log's entry of a message that was just accepted."""
    return StoredMessage(
        message.conversation,
        result.epoch,
        result.sequence,
        message.key,
        message.sender,
        message.device,
        message.cs,
        message.kind,
        result.accepted_ms,
        message.to,
    )


def frame_for(message: StoredMessage, device: DeviceId) -> Msg:
    """The message as `device` gets it.

    The sending device, and one that was added after the message was sealed, get an empty
    ciphertext: their sequences stay dense, and a client shows "sent before this device was
    added". A purged message is void.
    """
    return Msg(
        message.conversation,
        message.epoch,
        message.sequence,
        message.key,
        message.sender,
        message.device,
        message.accepted_ms,
        message.kind,
        message.to.get(device, b""),
    )


def range_frame(
    request: int,
    asked: tuple[str, int, int],
    messages: Iterable[StoredMessage],
    device: DeviceId,
    *,
    epoch: int,
    floor: int,
    head: int,
) -> Range:
    """The answer to a `get`: as much as one frame carries; `more` when that is not all."""
    c, first, last = asked
    found: list[Msg] = []
    room_bytes = _RANGE_BYTES_MAX
    for message in messages:
        frame = frame_for(message, device)
        room_bytes -= len(frame.ct) + MESSAGE_OVERHEAD_BYTES
        if room_bytes < 0 and found:
            break
        found.append(frame)
    covered = found[-1].s if found else min(last, head)
    more = covered < min(last, head)
    return Range(request, c, epoch, first, covered if more else last, found, more, floor)


class Recent:
    """The newest messages of conversations, as far as memory allows.

    Bounds: RECENT_MESSAGES of one conversation, RECENT_BYTES_MAX of all. What is forgotten is
    read from the store.
    """

    def __init__(self, bytes_max: int = RECENT_BYTES_MAX) -> None:
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        self._bytes_max = bytes_max
        self.held_bytes = 0

    def add(self, message: StoredMessage) -> None:
        """Remember it. A hole before it makes what was remembered useless."""
        c = message.conversation
        ring = self._rings.get(c)
        if ring is None:
            ring = self._rings[c] = _Ring(deque(), deque())
        elif ring.messages:
            newest = ring.messages[-1]
            if message.sequence <= newest.sequence and message.epoch == newest.epoch:
                return
            if message.sequence != newest.sequence + 1 or message.epoch != newest.epoch:
                self._clear(ring)
        weight = weight_bytes(message)
        ring.messages.append(message)
        ring.weights_bytes.append(weight)
        self.held_bytes += weight
        if len(ring.messages) > RECENT_MESSAGES:
            ring.messages.popleft()
            self.held_bytes -= ring.weights_bytes.popleft()
        self._rings.move_to_end(c)
        while self.held_bytes > self._bytes_max:
            _, quietest = self._rings.popitem(last=False)
            self._clear(quietest)

    def run(self, c: ConversationId | str, first: int, count: int) -> Sequence[StoredMessage]:
        """Messages `first`.. without a hole, at most `count`; empty when `first` is unknown."""
        ring = self._rings.get(c)
        if ring is None or not ring.messages:
            return ()
        skipped = first - ring.messages[0].sequence
        if skipped < 0 or skipped >= len(ring.messages):
            return ()
        return list(islice(ring.messages, skipped, skipped + count))

    def forget(self, c: str) -> None:
        """Drop what is remembered of a conversation."""
        ring = self._rings.pop(c, None)
        if ring is not None:
            self._clear(ring)

    def _clear(self, ring: "_Ring") -> None:
        self.held_bytes -= sum(ring.weights_bytes)
        ring.messages.clear()
        ring.weights_bytes.clear()


@dataclass(frozen=True, slots=True)
class _Ring:
    """The newest messages of one conversation, oldest first, and what each weighs."""

    messages: deque[StoredMessage]
    weights_bytes: deque[int]


def weight_bytes(message: StoredMessage) -> int:
    return sum(map(len, message.to.values())) + MESSAGE_OVERHEAD_BYTES
