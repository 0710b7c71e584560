"""Many seeds over several processes, progress, and the command that replays a failure."""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from angarium.testing.simulation.switches import ALL_ON, Switches
from angarium.testing.simulation.world import Outcome, simulate

CHUNK_SEEDS = 20
COMMAND = "python -m angarium.testing.simulation"


@dataclass(slots=True)
class Summary:
    """What many seeds gave."""

    seeds: int = 0
    failed: dict[int, list[str]] = field(default_factory=dict)
    figures: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.figures.update(outcome.figures)
        if outcome.violations:
            self.failed[outcome.seed] = outcome.violations

    def describe(self) -> str:
        figures = ", ".join(f"{name} {count}" for name, count in sorted(self.figures.items()))
        lines = [f"{self.seeds} seeds in {self.took_s:.1f} s: {len(self.failed)} failed"]
        lines.append(f"  over all: {figures}")
        for seed, violations in sorted(self.failed.items())[:20]:
            lines += [f"seed {seed}: {sentence}" for sentence in violations[:5]]
            lines.append(f"  replay: {COMMAND} --seed {seed} --verbose")
        return "\n".join(lines)


def run_chunk(seeds: Sequence[int], switches: Switches) -> list[Outcome]:
    """Simulate some seeds in this process."""
    gc.disable()  # A run is short and ends with its world: one sweep in the end does it.
    try:
        return [simulate(seed, switches) for seed in seeds]
    finally:
        gc.enable()
        gc.collect()


def run_seeds(
    seeds: Sequence[int],
    jobs: int,
    switches: Switches = ALL_ON,
    tell: Callable[[Summary], None] = lambda summary: None,
    stop_at_first: bool = False,
) -> Summary:
    """Simulate every seed in `jobs` processes. `tell` hears after each chunk.

    With `stop_at_first` it ends soon after the first seed that fails.
    """
    summary, started = Summary(), time.monotonic()
    # Sets of text are walked in the order of their hashes: equal in every process, or a seed
    # would not replay.
    os.environ["PYTHONHASHSEED"] = "0"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for outcomes in _chunks(pool, seeds, jobs, switches):
            for outcome in outcomes:
                summary.add(outcome)
            summary.took_s = time.monotonic() - started
            tell(summary)
            if stop_at_first and summary.failed:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return summary


def _chunks(
    pool: ProcessPoolExecutor, seeds: Sequence[int], jobs: int, switches: Switches
) -> Iterator[list[Outcome]]:
    starts = iter(range(0, len(seeds), CHUNK_SEEDS))
    running: set[Future[list[Outcome]]] = set()
    while True:
        while len(running) < 2 * jobs and (start := next(starts, None)) is not None:
            chunk = list(seeds[start : start + CHUNK_SEEDS])
            running.add(pool.submit(run_chunk, chunk, switches))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every seed is clean, 1 otherwise."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--verbose", action="store_true", help="tell each event of --seed")
    parser.add_argument("--off", default="", help="switch a guard off, to see it missed")
    chosen = parser.parse_args(arguments)
    switches = Switches.without(chosen.off) if chosen.off else ALL_ON
    if chosen.seed is not None:
        return _replay(chosen.seed, switches, chosen.verbose)
    seeds = range(chosen.start, chosen.start + chosen.seeds)
    summary = run_seeds(seeds, chosen.jobs, switches, lambda s: _progress(s, len(seeds)))
    _say("")
    _say(summary.describe())
    return 1 if summary.failed else 0


def _replay(seed: int, switches: Switches, verbose: bool) -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
    outcome = simulate(seed, switches, tell=_say if verbose else None)
    for sentence in outcome.violations or ["clean"]:
        _say(f"seed {seed}: {sentence}")
    _say(f"  {outcome.figures}")
    return 1 if outcome.violations else 0


def _progress(summary: Summary, seeds: int) -> None:
    sys.stdout.write(f"\r{summary.seeds}/{seeds} seeds, {len(summary.failed)} failed")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
