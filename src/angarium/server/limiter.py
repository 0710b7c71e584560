"""How often a principal may ask: one token bucket each, slowed before refused."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from angarium.clock import Clock
from angarium.errors import RateLimited
from angarium.limits import LIMITER_BUCKETS_MAX, RATE_SLOW_S_MAX, RATE_SLOWED_SHARE

MINUTE_S = 60.0


class RateCheck(Protocol):
    """A limit, of this node or of all nodes together."""

    def check(self, key: str) -> float:
        """Seconds to wait before what was asked for. Raises RateLimited."""
        ...


class Limiter:
    """A bucket of `rate_per_minute` tokens per key, refilled evenly.

    A key is a user id or the keyed hash of a phone number, never the number. The least recently
    used bucket is forgotten above `buckets_max`: its owner then starts with a full one.
    """

    def __init__(
        self,
        rate_per_minute: int,
        clock: Clock,
        *,
        buckets_max: int = LIMITER_BUCKETS_MAX,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._rate = float(rate_per_minute)
        self._clock = clock
        self._buckets_max = buckets_max
        self._refused = refused
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, key: str) -> float:
        """Take one token; returns seconds to wait first (0: go on).

        Above RATE_SLOWED_SHARE of the rate used, the wait grows up to RATE_SLOW_S_MAX.
        Raises RateLimited when the bucket is empty; nothing is taken then.
        """
        now_s = self._clock.monotonic_s()
        left, at_s = self._buckets.pop(key, (self._rate, now_s))
        left = min(self._rate, left + (now_s - at_s) * self._rate / MINUTE_S)
        allowed = left >= 1.0
        self._buckets[key] = (left - 1.0 if allowed else left, now_s)
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        if not allowed:
            self._refused()
            after_ms = int((1.0 - left) * MINUTE_S / self._rate * 1000) + 1
            raise RateLimited(f"over {self._rate:.0f} a minute", after_ms)
        return self._slow_s(1.0 - (left - 1.0) / self._rate)

    def used(self, key: str) -> float:
        """Tokens of the bucket that are gone now."""
        left, at_s = self._buckets.get(key, (self._rate, 0.0))
        elapsed_s = self._clock.monotonic_s() - at_s
        return max(0.0, self._rate - left - elapsed_s * self._rate / MINUTE_S)

    def raise_used(self, key: str, used: float) -> None:
        """At least `used` tokens are gone: others took some. More than all is a debt."""
        if key in self._buckets and used > self.used(key):
            self._buckets[key] = (self._rate - used, self._clock.monotonic_s())

    def _slow_s(self, used: float) -> float:
        if used <= RATE_SLOWED_SHARE:
            return 0.0
        return RATE_SLOW_S_MAX * (used - RATE_SLOWED_SHARE) / (1.0 - RATE_SLOWED_SHARE)

    @property
    def buckets(self) -> int:
        """How many principals are remembered."""
        return len(self._buckets)
