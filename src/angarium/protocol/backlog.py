"""What one connection has been sent, what it has acknowledged, and what it lacks. Pure.

Messages without acknowledgement count against a credit. When it is used up only the cursor is
kept: the store is the buffer.
"""

from collections import deque

from angarium.limits import CREDIT_BYTES, CREDIT_MESSAGES, RANGE_MESSAGES_MAX
from angarium.model.conversation import Head

MESSAGE_OVERHEAD_BYTES = 200  # What a `msg` frame weighs beside its ciphertext.


class Cursor:
    """How far this device has been sent one conversation.

    `sent` is the newest sequence on the wire, `acked` the newest one stored by the client,
    `head` the newest known to exist. `weights` holds the bytes of each message between `acked`
    and `sent`.
    """

    __slots__ = ("acked", "epoch", "floor", "head", "sent", "weights")

    def __init__(self, epoch: int, sent: int, head: int, floor: int) -> None:
        self.epoch, self.sent, self.acked, self.head, self.floor = (
            epoch,
            sent,
            sent,
            head,
            floor,
        )
        self.weights: deque[int] | None = None


class Backlog:
    """All cursors of one connection under one credit."""

    __slots__ = (
        "_unacked_bytes",
        "_unacked_messages",
        "behind",
        "credit_bytes",
        "credit_messages",
        "cursors",
        "pushed",
    )

    def __init__(self) -> None:
        self.cursors: dict[str, Cursor] = {}
        self.behind: dict[str, None] = {}  # Conversations with something to send, in turn.
        self.credit_messages, self.credit_bytes = CREDIT_MESSAGES, CREDIT_BYTES
        self.pushed = 0
        self._unacked_messages = self._unacked_bytes = 0

    def offer_credit(self, messages: int, credit_bytes: int) -> None:
        """The client may ask for less than the node's credit, never for more."""
        if messages > 0:
            self.credit_messages = min(messages, CREDIT_MESSAGES)
        if credit_bytes > 0:
            self.credit_bytes = min(credit_bytes, CREDIT_BYTES)

    @property
    def has_credit(self) -> bool:
        """The last message may go over the byte limit, so that a large one gets through."""
        return (
            self._unacked_messages < self.credit_messages
            and self._unacked_bytes < self.credit_bytes
        )

    @property
    def unacked(self) -> tuple[int, int]:
        """Messages and bytes on the wire without acknowledgement."""
        return self._unacked_messages, self._unacked_bytes

    def enter(self, c: str, head: Head, sent: int) -> None:
        """Follow `c` from after `sent`."""
        self.cursors[c] = Cursor(head.epoch, sent, head.sequence, head.floor)
        if sent < head.sequence:
            self.behind[c] = None

    def leave(self, c: str) -> bool:
        """Follow `c` no more. False: it was not followed."""
        cursor = self.cursors.pop(c, None)
        if cursor is None:
            return False
        self._forgive(cursor)
        self.behind.pop(c, None)
        return True

    def acknowledge(self, c: str, sequence: int) -> bool:
        """Everything of `c` up to `sequence` is stored by the client. False: nothing new."""
        cursor = self.cursors.get(c)
        acked = min(sequence, cursor.head) if cursor is not None else 0
        if cursor is None or acked <= cursor.acked:
            return False
        weights = cursor.weights
        if weights:
            for _ in range(min(acked - cursor.acked, len(weights))):
                self._unacked_bytes -= weights.popleft()
                self._unacked_messages -= 1
        cursor.acked = acked
        # A client may know more than it was sent here: it asked for a range.
        cursor.sent = max(cursor.sent, acked)
        return True

    def raise_head(self, c: str, head: Head) -> bool:
        """The log of `c` is known to reach `head`. True: there is something to send."""
        cursor = self.cursors[c]
        cursor.head = max(cursor.head, head.sequence)
        cursor.floor = max(cursor.floor, head.floor)
        if cursor.sent >= cursor.head:
            return False
        self.behind[c] = None
        return True

    def push(self, c: str, epoch: int, sequence: int, ciphertext_bytes: int) -> bool:
        """Whether message `sequence` may go out now; if so it counts as sent.

        Only the one right after the newest sent, and only on credit; a later one leaves the
        conversation behind.
        """
        cursor = self.cursors.get(c)
        if cursor is None or epoch != cursor.epoch:
            return False
        if sequence > cursor.head:
            cursor.head = sequence
        if sequence <= cursor.sent:
            return False
        if sequence != cursor.sent + 1 or not self.has_credit:
            self.behind[c] = None
            return False
        weight_bytes = ciphertext_bytes + MESSAGE_OVERHEAD_BYTES
        if cursor.weights is None:
            cursor.weights = deque()
        cursor.weights.append(weight_bytes)
        cursor.sent = sequence
        self._unacked_messages += 1
        self._unacked_bytes += weight_bytes
        self.pushed += 1
        if sequence >= cursor.head and self.behind:
            self.behind.pop(c, None)
        return True

    def wanted(self) -> tuple[str, int, int] | None:
        """The next messages to deliver: conversation, first sequence, how many at most."""
        while self.behind and self.has_credit:
            c = next(iter(self.behind))
            cursor = self.cursors[c]
            if cursor.sent < cursor.head:
                room = self.credit_messages - self._unacked_messages
                count = min(cursor.head - cursor.sent, room, RANGE_MESSAGES_MAX)
                return c, cursor.sent + 1, count
            del self.behind[c]
        return None

    def rotate(self, c: str) -> None:
        """Let other conversations that are behind come first."""
        if c in self.behind:
            del self.behind[c]
            self.behind[c] = None

    def put_off(self, c: str) -> None:
        """Nothing could be read of `c`: it waits until its head is noticed anew."""
        self.behind.pop(c, None)

    def skip(self, c: str, floor: int) -> bool:
        """The store keeps nothing of `c` before `floor`. False: that explains no gap."""
        cursor = self.cursors.get(c)
        if cursor is None or floor - 1 <= cursor.sent:
            return False
        self._forgive(cursor)
        cursor.sent = cursor.acked = floor - 1
        cursor.floor = floor
        return True

    def _forgive(self, cursor: Cursor) -> None:
        if cursor.weights:
            self._unacked_messages -= len(cursor.weights)
            self._unacked_bytes -= sum(cursor.weights)
            cursor.weights.clear()
