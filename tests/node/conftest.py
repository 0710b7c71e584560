"""A real node that the tests of one module share, and the loop it lives on."""

import asyncio
from collections.abc import Iterator

import pytest

from angarium.server.http import free_port
from angarium.testing.process import ServedNode

from .nodes import ECHO, Run


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a coroutine on the loop of this module's node."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def node(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """`angarium serve` with one agent that echoes, in a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "agents.py").write_text(ECHO)
    settings = {
        "agents": str(folder / "agents.py"),
        "rate_per_minute": "100000",
        "phone_port": str(free_port("127.0.0.1")),
    }
    served = ServedNode(folder / "node", settings=settings)
    run(served.start())
    yield served
    assert run(served.stop()) == 0
    written = served.log_text()
    assert "Traceback" not in written
    assert '"level": "error"' not in written  # Bad input is no fault of the node's.
