"""Numbers for entries that callers name by a whole number, without a counter in the store."""

from collections.abc import Callable

from angarium.clock import Clock

_RANDOM_BITS = 12  # With 41 bits of milliseconds it stays exact in JSON numbers until 2039.


class Numbers:
    """Numbers that grow within this process and, roughly, with time across all of them.

    Two processes may draw the same one: a unique index decides, the loser draws again.
    """

    def __init__(self, clock: Clock, random_bits: Callable[[int], int]) -> None:
        self._clock, self._random_bits = clock, random_bits
        self._last = 0

    def draw(self) -> int:
        number = self._clock.now_ms() << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
        self._last = max(number, self._last + 1)
        return self._last
