"""SIGTERM is obeyed also by a node that is not ready yet."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from angarium.testing.process import ServedNode

from .nodes import ECHO, Run, environment

pytestmark = [pytest.mark.process, pytest.mark.slow]
STOP_WAIT_S = 40.0


def test_a_node_that_waits_for_anothers_lease_stops_when_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(ECHO)
    settings = {"agents": str(tmp_path / "agents.py")}

    async def scenario() -> None:
        async with ServedNode(tmp_path / "node", settings=settings) as first:
            second = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "angarium", "serve",
                env=environment(first.folder, settings),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            assert second.stdout is not None
            written = b""
            try:
                async with asyncio.timeout(STOP_WAIT_S):
                    while b"node.waiting" not in written:
                        written += await second.stdout.readline()
                second.send_signal(signal.SIGTERM)
                async with asyncio.timeout(STOP_WAIT_S):
                    assert await second.wait() == 0
                    assert b"Traceback" not in await second.stdout.read()
            finally:
                if second.returncode is None:
                    second.kill()
                    await second.wait()

    run(scenario())
