"""What the messaging service counts: plain numbers, read when somebody asks."""

from bisect import bisect_left

from angarium.errors import SlowConsumer, Unavailable
from angarium.protocol.server_side import CLOSE_NO_PONG

COMMIT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Figures:
    """Counters only grow; gauges (`connections`, `queue_messages`) go both ways."""

    def __init__(self) -> None:
        self.connections = 0
        self.opened = 0
        self.closed_by_code: dict[int, int] = {}
        self.closed_slow = self.closed_silent = self.closed_away = 0
        self.received = 0
        self.accepted = 0
        self.duplicates = 0
        self.refused = 0
        self.deliveries = 0
        self.range_reads = 0
        self.events_relayed = 0
        self.events_dropped = 0
        self.receipts_stored = 0
        self.heads_repaired = 0
        self.queue_messages = 0
        self.commits = 0
        self.commit_sizes = [0] * (len(COMMIT_BUCKETS) + 1)  # By COMMIT_BUCKETS; last: above.
        self.commit_s_total = 0.0

    def numbers(self) -> dict[str, int | float]:
        """Every plain number by name, for the metrics page."""
        return {
            name: value for name, value in vars(self).items() if isinstance(value, int | float)
        }

    def count_commit(self, messages: int, took_s: float) -> None:
        """One commit of the append queue."""
        self.commits += 1
        self.commit_sizes[bisect_left(COMMIT_BUCKETS, messages)] += 1
        self.commit_s_total += took_s

    def count_close(self, code: int) -> None:
        """One connection closed by this node with `code`."""
        self.closed_by_code[code] = self.closed_by_code.get(code, 0) + 1
        self.closed_slow += code == SlowConsumer.close_code
        self.closed_silent += code == CLOSE_NO_PONG
        self.closed_away += code == Unavailable.close_code
