"""The gate before every send: opt-out, the 24-hour window, rates. No network, no store."""

from collections import OrderedDict
from dataclasses import dataclass

from angarium.limits import REPLY_WINDOW_S

SENDER_PER_S = 80.0
PAIR_EVERY_S = 6.0
PAIR_BURST = 45
PAIRS_MAX = 20_000  # Buckets kept; over it the one unused longest is forgotten (and is full).


@dataclass(frozen=True, slots=True)
class Standing:
    """What the gate needs to know of a contact."""

    wrote_at_ms: int = 0
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class Allowed:
    """Send it now; the rate has been charged."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """Send it in `after_ms`."""

    after_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    """It must not be sent."""

    reason: str


Judgement = Allowed | NotYet | Denied


class TokenBucket:
    """`burst` at once, then `per_s` a second. Times are monotonic seconds."""

    __slots__ = ("_at_s", "_burst", "_level", "_per_s")

    def __init__(self, burst: float, per_s: float, now_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._level, self._at_s = burst, now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until one token is there; 0 when it is."""
        passed_s = max(0.0, now_s - self._at_s)
        self._level = min(self._burst, self._level + passed_s * self._per_s)
        self._at_s = max(self._at_s, now_s)
        return max(0.0, (1.0 - self._level) / self._per_s)

    def take(self) -> None:
        """Take the token that `wait_s` promised."""
        self._level -= 1.0


class Policy:
    """Judges each send. One object for one channel, so that the rates are shared."""

    def __init__(
        self,
        *,
        window_s: float = REPLY_WINDOW_S,
        sender_per_s: float = SENDER_PER_S,
        pair_every_s: float = PAIR_EVERY_S,
        pair_burst: int = PAIR_BURST,
    ) -> None:
        self._window_ms = round(window_s * 1000)
        self._sender_per_s = sender_per_s
        self._pair_every_s, self._pair_burst = pair_every_s, pair_burst
        self._senders: dict[str, TokenBucket] = {}
        self._pairs: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()

    def judge(
        self,
        standing: Standing,
        *,
        sender: str,
        contact: str,
        now_ms: int,
        monotonic_s: float,
        notice: bool = False,
    ) -> Judgement:
        """A `notice` answers an opt-out word, and so may pass it; nothing passes the window."""
        if standing.opted_out and not notice:
            return Denied("opted_out")
        if now_ms - standing.wrote_at_ms >= self._window_ms:
            return Denied("window_closed")
        by_sender = self._sender(sender, monotonic_s)
        by_pair = self._pair(sender, contact, monotonic_s)
        sender_wait_s, pair_wait_s = by_sender.wait_s(monotonic_s), by_pair.wait_s(monotonic_s)
        wait_s = max(sender_wait_s, pair_wait_s)
        if wait_s > 0:
            reason = "pair_rate" if pair_wait_s >= sender_wait_s else "sender_rate"
            return NotYet(int(wait_s * 1000) + 1, reason)
        by_sender.take()
        by_pair.take()
        return Allowed()

    def _sender(self, sender: str, now_s: float) -> TokenBucket:
        if sender not in self._senders:
            self._senders[sender] = TokenBucket(self._sender_per_s, self._sender_per_s, now_s)
        return self._senders[sender]

    def _pair(self, sender: str, contact: str, now_s: float) -> TokenBucket:
        key = (sender, contact)
        if key not in self._pairs:
            self._pairs[key] = TokenBucket(self._pair_burst, 1 / self._pair_every_s, now_s)
            if len(self._pairs) > PAIRS_MAX:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end(key)
        return self._pairs[key]
