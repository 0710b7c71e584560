"""The benchmarks run against the real process and print what they promise."""

import asyncio
import json
import subprocess
import sys

import pytest

from angarium.errors import NotFound
from angarium.testing.bench import BENCHES, BenchOptions, machine, percentile, run

SECONDS = "0.3"
FIGURES = {
    "append": {
        "durable_per_s",
        "durable_per_cpu_s",
        "client_busy_percent",
        "ack_p50_ms",
        "ack_p99_ms",
    },
    "cluster": {
        "per_s_1",
        "per_s_3",
        "per_cpu_s_1",
        "per_cpu_s_3",
        "client_busy_percent",
        "drain_gap_p99_ms",
        "offline_at_drain",
    },
    "journey": {
        "first_part_p50_ms",
        "first_part_p99_ms",
        "reply_p50_ms",
        "commits_per_journey",
        "per_cpu_s",
        "journeys_per_s",
        "loaded_first_part_p50_ms",
    },
    "resilience": {
        "overhead_us",
        *(
            f"{trouble}_others_{spell}_{share}_ms"
            for trouble in ("hangs", "floods", "fails", "garbage")
            for spell in ("alone", "beside")
            for share in ("p50", "p99")
        ),
    },
    "route": {
        "cached_p50_us",
        "cached_p99_us",
        "cached_redis_p50_ms",
        "cached_redis_p99_ms",
        "uncached_p50_ms",
        "uncached_p95_ms",
        "uncached_p99_ms",
    },
    "turns": {
        "overhead_p50_ms",
        "overhead_p99_ms",
        "turns_per_s",
        "turns_per_cpu_s",
        "at_once_max",
        "at_once_over_p99_ms",
        "at_once_kb",
    },
}

DIFFERENCES = {"at_once_kb", "overhead_us"}  # Of two measurements: noise may turn them round.


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "angarium", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.cluster) if name == "cluster" else name
        for name in sorted(BENCHES)
    ],
)
def test_a_benchmark_prints_one_object_with_the_figures_promised(name: str) -> None:
    done = bench(name, "--json", "--seconds", SECONDS)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    found = json.loads(done.stdout)
    assert set(found) == {"name", "figures", "machine", "version"}
    assert found["name"] == name
    assert set(found["figures"]) == FIGURES[name]
    offline = found["figures"].pop("offline_at_drain", 0)
    assert offline == 0
    certain = {n: value for n, value in found["figures"].items() if n not in DIFFERENCES}
    assert all(value > 0 for value in certain.values()), certain
    if name == "journey":
        figures = found["figures"]
        assert figures["first_part_p50_ms"] <= figures["first_part_p99_ms"]
        assert figures["first_part_p50_ms"] < figures["reply_p50_ms"]  # Parts came first.


@pytest.mark.slow
@pytest.mark.process
def test_for_people_there_is_a_table_and_the_bar_is_not_in_it() -> None:
    done = bench("append", "--seconds", SECONDS)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in FIGURES["append"])
    assert "appending" in done.stderr
    assert "appending" not in done.stdout


@pytest.mark.slow
@pytest.mark.process
def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    done = bench("nothing", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "append, cluster, journey, resilience" in done.stderr
    with pytest.raises(NotFound):
        asyncio.run(run("nothing", BenchOptions(0.1, lambda what, share: None)))


def test_percentiles_are_values_that_were_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) == 0.0


def test_the_machine_is_one_line_that_names_cores_and_python() -> None:
    assert "\n" not in machine()
    assert " cores, " in machine()
    assert machine().endswith(sys.version.split()[0])
