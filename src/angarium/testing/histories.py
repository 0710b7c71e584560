"""What load clients did and saw, what that breaks of the guarantees, and its figures. Pure.

Times are seconds of one monotonic clock that all clients of a run share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from angarium.testing.bench import percentile
from angarium.testing.simulation.invariants import Entry, Facts, History, Said, Shown, judge


@dataclass(slots=True)
class Sent:
    """One message a client submitted. `sequence` is 0 until, or unless, one was named."""

    conversation: str
    key: str
    sent_s: float
    acked_s: float | None = None
    sequence: int = 0
    refused: str = ""  # The code of a final refusal.


class Got(NamedTuple):
    """One message as it was delivered, own ones included."""

    conversation: str
    sequence: int
    key: str
    user: str
    device: str
    at_s: float


@dataclass(slots=True)
class Offline:
    """A time without a usable connection: from its loss to the next welcome (`up_s`) and to the
    end of the backlog after it (`live_s`). None: not yet."""

    since_s: float
    up_s: float | None = None
    live_s: float | None = None


@dataclass(slots=True)
class ClientHistory:
    """One device's run. `offline` begins with the first connection that was lost."""

    user: str
    device: str
    sent: list[Sent] = field(default_factory=list)
    received: list[Got] = field(default_factory=list)
    offline: list[Offline] = field(default_factory=list)
    handovers: int = 0  # Connections replaced without a moment offline.
    refused_connections: int = 0  # Attempts that came to nothing.
    closes: list[tuple[float, int]] = field(default_factory=list)  # When, and with which code.
    misdelivered: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    ended: str = ""  # The code of the error that ended the client for good.


@dataclass(slots=True)
class Stored:
    """What the store holds at the end: each conversation's log and participants."""

    log: dict[str, list[Entry]]
    members: dict[str, frozenset[str]]


def check_histories(
    histories: Sequence[ClientHistory], stored: Stored, unfinished: Sequence[str] = ()
) -> list[str]:
    """Every broken invariant (I1 to I6, I8) as a sentence; none: the run is clean.

    `unfinished`: what had not come to rest within its bound.
    """
    facts = Facts(
        log=stored.log,
        members=stored.members,
        histories=[_as_judged(history) for history in histories],
        misdelivered=[
            f"{history.device}: {place}"
            for history in histories
            for place in history.misdelivered
        ],
        unhandled=[
            f"{history.device}: {what}"
            for history in histories
            for what in (*history.defects, *([history.ended] if history.ended else []))
        ],
        unfinished=list(unfinished),
    )
    return judge(facts)


def _as_judged(history: ClientHistory) -> History:
    judged = History(history.user, history.device)
    for order, sent in enumerate(history.sent):
        if not sent.refused:
            judged.said.append(Said(sent.conversation, sent.key, "", order))
        if sent.acked_s is not None:
            judged.acked.append((sent.conversation, sent.key, sent.sequence))
    for got in history.received:
        shown = Shown(got.sequence, got.key, got.user, got.device, "")
        judged.shown.setdefault(got.conversation, []).append(shown)
    return judged


def figures(
    histories: Sequence[ClientHistory], since_s: float = 0.0, until_s: float = float("inf")
) -> dict[str, float]:
    """Numbers of a run, of what was sent or lost within [since_s, until_s).

    sent, acked, refused, received; per_s (acknowledged, over the time they took); ack_*_ms
    (submitted to acknowledged); delivery_*_ms (submitted to delivered, other devices);
    gap_*_ms (acknowledged to delivered, 0 where delivery came first); reconnects and
    reconnect_*_s (lost to live again); offline_max (clients without a connection at one
    moment); handovers.
    """
    sent = [one for each in histories for one in each.sent if since_s <= one.sent_s < until_s]
    acked = [one for one in sent if one.acked_s is not None]
    losses = [
        lost for each in histories for lost in each.offline if since_s <= lost.since_s < until_s
    ]
    acks_ms = [(one.acked_s - one.sent_s) * 1000 for one in acked if one.acked_s is not None]
    deliveries_ms, gaps_ms, received = _journeys(histories, {one.key: one for one in sent})
    back_s = [lost.live_s - lost.since_s for lost in losses if lost.live_s is not None]
    return {
        "sent": len(sent),
        "acked": len(acked),
        "refused": sum(bool(one.refused) for one in sent),
        "received": received,
        "per_s": _rate(acked),
        **_percentiles("ack", "ms", acks_ms),
        **_percentiles("delivery", "ms", deliveries_ms),
        **_percentiles("gap", "ms", gaps_ms),
        "reconnects": len(losses),
        **_percentiles("reconnect", "s", back_s),
        "offline_max": offline_max(histories, since_s, until_s),
        "handovers": sum(each.handovers for each in histories),
    }


def offline_max(
    histories: Sequence[ClientHistory], since_s: float = 0.0, until_s: float = float("inf")
) -> int:
    """How many clients were without a connection at once, at the worst moment of the span."""
    changes: list[tuple[float, int]] = []
    for history in histories:
        for lost in history.offline:
            end_s = float("inf") if lost.up_s is None else lost.up_s
            if end_s > since_s and lost.since_s < until_s:
                changes += [(max(lost.since_s, since_s), 1), (end_s, -1)]
    worst = now = 0
    for _, change in sorted(changes):
        now += change
        worst = max(worst, now)
    return worst


def _journeys(
    histories: Sequence[ClientHistory], sent: Mapping[str, Sent]
) -> tuple[list[float], list[float], int]:
    """Milliseconds from submitted, and from acknowledged, to delivered; how many arrived."""
    deliveries_ms: list[float] = []
    gaps_ms: list[float] = []
    for history in histories:
        for got in history.received:
            message = sent.get(got.key)
            if message is None or got.device == history.device:
                continue
            deliveries_ms.append((got.at_s - message.sent_s) * 1000)
            if message.acked_s is not None:
                gaps_ms.append(max(0.0, got.at_s - message.acked_s) * 1000)
    return deliveries_ms, gaps_ms, len(deliveries_ms)


def _percentiles(name: str, unit: str, values: list[float]) -> dict[str, float]:
    return {
        f"{name}_p50_{unit}": percentile(values, 0.50),
        f"{name}_p99_{unit}": percentile(values, 0.99),
        f"{name}_max_{unit}": max(values, default=0.0),
    }


def _rate(acked: Sequence[Sent]) -> float:
    if not acked:
        return 0.0
    first_s = min(one.sent_s for one in acked)
    last_s = max(one.acked_s or first_s for one in acked)
    return len(acked) / max(last_s - first_s, 0.001)
