"""Benchmarks: `angarium bench NAME`. Each module has `async def measure(options) -> figures`.

Figure names end in their unit. Load goes to loopback only, bounded in count and time.
"""

import importlib
import platform
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from angarium.errors import Misconfigured, NotFound

UNLIMITED_PER_MINUTE = 100_000_000  # For the node's rate limits.
Progress = Callable[[str, float], None]
BENCHES = {
    "append": "durable appends through the relay: wire, protocol, group commit",
    "cluster": "one node and three on MongoDB and Redis: throughput, and a rolling restart",
    "journey": "person -> seal -> relay -> gateway -> function agent -> sealed reply",
    "resilience": "what guarding a call to an agent costs, and what others notice of a bad one",
    "route": "finding the agent for a message: time with and without the cache; accuracy",
    "turns": "what the gateway adds to an agent that costs nothing",
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """`seconds` of measured load; `progress` is told (what, share done). Of `route`: a folder
    with CLINC150, and files of one's own. `notes` takes sentences about figures that are None.
    """

    seconds: float
    progress: Progress
    data: Path | None = None
    examples: Path | None = None
    evaluate: Path | None = None
    notes: list[str] = field(default_factory=list)


Measured = Mapping[str, float | None]
Measure = Callable[[BenchOptions], Awaitable[Measured]]


async def run(name: str, options: BenchOptions) -> dict[str, Any]:
    """Run one benchmark: {"name", "figures", "machine", "version"}, and "notes" where there are
    some. Raises NotFound, and Misconfigured for files it does not read."""
    if name not in BENCHES:
        raise NotFound(f"there is no benchmark {name}; choose from: {', '.join(BENCHES)}")
    if name != "route" and (options.data or options.examples or options.evaluate):
        raise Misconfigured(f"the benchmark {name} reads no files; only route does")
    measure: Measure = importlib.import_module(f"angarium.testing.bench.{name}").measure
    figures = await measure(options)
    told: dict[str, Any] = {
        "name": name,
        "figures": {
            key: None if value is None else round(value, 4) for key, value in figures.items()
        },
        "machine": machine(),
        "version": version("angarium"),
    }
    return {**told, "notes": options.notes} if options.notes else told


def machine() -> str:
    """Processor, cores, kernel and Python, in one line."""
    cpu = platform.processor() or platform.machine()
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    cores = _read("/proc/cpuinfo").count("processor\t") or 1
    system = f"{platform.system()} {platform.release()}"
    return f"{cpu}, {cores} cores, {system}, Python {platform.python_version()}"


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; `values` need not be sorted. 0.0 when empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
