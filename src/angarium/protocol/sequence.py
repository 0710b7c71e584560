"""Order at the receiving end: each message of a conversation once, in sequence. Pure.

`cursor` is the newest sequence handed on; `head` the newest one known to exist. What lies
between and is not held is the gap to ask for.
"""

from collections.abc import Iterable

from angarium.limits import HELD_MESSAGES_MAX, RANGE_MESSAGES_MAX
from angarium.protocol.frames import Msg


class Intake:
    """One conversation's messages on their way in."""

    def __init__(self, epoch: int = 0, cursor: int = 0) -> None:
        self.epoch = epoch
        self.cursor = cursor
        self.head = cursor
        self._held: dict[int, Msg] = {}

    @property
    def held(self) -> int:
        return len(self._held)

    def is_other_epoch(self, epoch: int) -> bool:
        """Whether the log was restored to another history: this cursor is void then."""
        return self.epoch not in (0, epoch)

    def enter_epoch(self, epoch: int) -> None:
        """Begin the given epoch; when it is another one, from its first message."""
        if self.is_other_epoch(epoch):
            self.cursor = self.head = 0
            self._held.clear()
        self.epoch = epoch

    def take(self, messages: Iterable[Msg]) -> list[Msg]:
        """Put these in, of the current epoch; returns what is in order now, oldest first."""
        for message in messages:
            self.head = max(self.head, message.s)
            if message.s > self.cursor:
                self._hold(message)
        ready: list[Msg] = []
        while (following := self._held.pop(self.cursor + 1, None)) is not None:
            self.cursor += 1
            ready.append(following)
        return ready

    def saw_head(self, sequence: int) -> None:
        self.head = max(self.head, sequence)

    def skip_below(self, floor: int) -> list[Msg]:
        """Messages before `floor` are gone for good; returns what is in order now."""
        if floor - 1 > self.cursor:
            self.cursor = floor - 1
            self.head = max(self.head, self.cursor)
            self._held = {s: held for s, held in self._held.items() if s > self.cursor}
        return self.take(())

    def gap(self) -> tuple[int, int] | None:
        """First and last missing sequence to ask for, at most a range long; None: no gap."""
        if self.head <= self.cursor:
            return None
        first = self.cursor + 1
        last = min(self._held) - 1 if self._held else self.head
        return first, min(last, first + RANGE_MESSAGES_MAX - 1)

    def _hold(self, message: Msg) -> None:
        following = message.s == self.cursor + 1
        if following or message.s in self._held or len(self._held) < HELD_MESSAGES_MAX:
            self._held[message.s] = message
            return
        newest = max(self._held)
        if message.s < newest:
            # The oldest are needed first; the newest is asked for again later.
            del self._held[newest]
            self._held[message.s] = message
