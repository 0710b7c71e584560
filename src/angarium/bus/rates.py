"""How much of its rate a principal has used, counting every node. Soft: it may forget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from angarium.clock import Clock
from angarium.limits import RATES_DEBT_S_MAX

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What one node let through: `tokens` since it last settled, and its bucket's level.

    `used` includes `tokens`. It restores what was forgotten.
    """

    key: str
    tokens: float
    used: float


class Rates(Protocol):
    """One rate for each principal, as all nodes see it."""

    async def settle(self, spent: Sequence[Spent]) -> Sequence[float]:
        """Add what was spent here; returns how much of each is used, refilled until now.

        That may be more than the whole rate, by RATES_DEBT_S_MAX of refill at most. Raises
        Unavailable; whether the tokens were added is not known then, so say none next time:
        `used` stands for them.
        """
        ...


class LocalRates:
    """Implements `Rates` inside one process; nodes of a test share one table."""

    def __init__(
        self, rate_per_minute: int, clock: Clock, table: dict[str, float] | None = None
    ) -> None:
        self._token_s, self._clock = MINUTE_S / rate_per_minute, clock
        self._full_s: dict[str, float] = {} if table is None else table

    async def settle(self, spent: Sequence[Spent]) -> Sequence[float]:
        return [self._settle(each) for each in spent]

    def _settle(self, spent: Spent) -> float:
        now_s = self._clock.monotonic_s()
        full_s = max(now_s, self._full_s.get(spent.key, now_s)) + spent.tokens * self._token_s
        full_s = max(full_s, now_s + spent.used * self._token_s)
        full_s = min(full_s, now_s + MINUTE_S + RATES_DEBT_S_MAX)
        self._full_s[spent.key] = full_s
        return (full_s - now_s) / self._token_s
