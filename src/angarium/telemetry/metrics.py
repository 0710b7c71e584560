"""Counters, histograms and gauges, rendered as Prometheus text. Adding is a plain `+=`."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from angarium.errors import Misconfigured

LABEL_VALUES_MAX = 64  # Of one counter; further values are counted as `other`.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(slots=True)
class Counter:
    """Only grows. On a hot path write `counter.value += 1`."""

    name: str
    about: str
    value: int = 0

    def add(self, n: int = 1) -> None:
        self.value += n

    def lines(self) -> list[str]:
        return [f"{self.name} {self.value}"]


@dataclass(slots=True)
class LabelledCounter:
    """One counter per value of one label; values are words of the code, never user input."""

    name: str
    about: str
    label: str
    values: dict[str, int] = field(default_factory=dict)

    def add(self, value: str, n: int = 1) -> None:
        if value not in self.values and len(self.values) >= LABEL_VALUES_MAX:
            value = "other"
        self.values[value] = self.values.get(value, 0) + n

    def lines(self) -> list[str]:
        return [
            f'{self.name}{{{self.label}="{escape(value)}"}} {count}'
            for value, count in sorted(self.values.items())
        ]


class Histogram:
    """Counts observations under upper bounds; the unit stands in the name."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self.name, self.about = name, about
        self._bounds = tuple(sorted(bounds))
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        lines, total = [], 0
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            total += count
            edge = "+Inf" if bound is None else f"{bound:g}"
            lines.append(f'{self.name}_bucket{{le="{edge}"}} {total}')
        return [*lines, f"{self.name}_sum {self._sum:g}", f"{self.name}_count {total}"]


@dataclass(slots=True)
class Gauge:
    """Asked when rendered. A callback that fails leaves its line out."""

    name: str
    about: str
    read: Callable[[], float]

    def lines(self) -> list[str]:
        try:
            return [f"{self.name} {self.read():g}"]
        except Exception:  # A broken gauge must not take the page with it.
            return []


M = TypeVar("M", Counter, LabelledCounter, Histogram, Gauge)
Metric = Counter | LabelledCounter | Histogram | Gauge
_KINDS = {
    Counter: "counter",
    LabelledCounter: "counter",
    Histogram: "histogram",
    Gauge: "gauge",
}


class Metrics:
    """The figures of one node. Names begin with `angarium_`, end in a unit or `_total`."""

    def __init__(self, prefix: str = "angarium_") -> None:
        self._prefix = prefix
        self._metrics: dict[str, Metric] = {}

    def counter(self, name: str, about: str) -> Counter:
        return self._keep(Counter(self._named(name), about))

    def labelled(self, name: str, about: str, label: str) -> LabelledCounter:
        return self._keep(LabelledCounter(self._named(name), about, label))

    def histogram(self, name: str, about: str, bounds: Sequence[float] = SECONDS) -> Histogram:
        return self._keep(Histogram(self._named(name), about, bounds))

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> Gauge:
        return self._keep(Gauge(self._named(name), about, read))

    def names(self) -> dict[str, str]:
        """What each metric means, by name."""
        return {name: metric.about for name, metric in sorted(self._metrics.items())}

    def render(self) -> str:
        """Prometheus text format 0.0.4."""
        lines: list[str] = []
        for name, metric in sorted(self._metrics.items()):
            about = metric.about.replace("\\", "\\\\").replace("\n", "\\n")
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {_KINDS[type(metric)]}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"

    def _named(self, name: str) -> str:
        full = self._prefix + name
        if not _NAME.fullmatch(full) or full in self._metrics:
            raise Misconfigured(f"metric {full}: taken, or not a lower-case name")
        return full

    def _keep(self, metric: M) -> M:
        self._metrics[metric.name] = metric
        return metric


def escape(value: str) -> str:
    """A label value between quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
