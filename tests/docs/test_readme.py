"""What the README tells a newcomer to type works as written."""

import asyncio
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from angarium.agents.registry import load_registry
from angarium.server.http import free_port
from angarium.testing.agents import AgentWorld

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
WAIT_S = 60.0
READY = "Talk to the agents from another terminal"


def commands(fits: str) -> list[str]:
    """Lines of the README's plain code blocks that begin like this."""
    blocks = re.findall(r"```\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(fits)]


def here(command: str) -> list[str]:
    """The command of an installation, run from this one."""
    program, *arguments = shlex.split(command)
    assert program.endswith("bin/angarium") or program == "$(BIN)/angarium", command
    return [sys.executable, "-m", "angarium", *arguments]


def recipe_of_run() -> str:
    """What `make run` runs once everything is set up."""
    found = re.search(r"^run:.*\n\t@(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def settings(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "ANGARIUM_" not in name}
    return kept | {
        "ANGARIUM_DATA": str(folder / "data"),
        "ANGARIUM_PORT": "0",
        "ANGARIUM_WEBSOCKET_PORT": "0",
        "ANGARIUM_PHONE_PORT": str(free_port("127.0.0.1")),
    }


async def start(command: list[str], environment: dict[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=ROOT, stdout=pipe, stderr=pipe,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


async def transcript(process: asyncio.subprocess.Process) -> str:
    """What the self-check shows, up to how to go on."""
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(WAIT_S):
        while line := (await process.stdout.readline()).decode():
            lines.append(line)
            if READY in line:
                return "".join(lines)
    raise AssertionError(f"it ended after {''.join(lines)}")


@pytest.mark.slow
@pytest.mark.process
def test_the_sixty_seconds_of_the_readme(tmp_path: Path) -> None:
    said = [line for line in commands(".venv/bin/angarium") if "--say" in line]
    assert {shlex.split(line)[1] for line in said} == {"chat", "phone"}
    assert commands("make run")

    async def scenario() -> None:
        environment = settings(tmp_path)
        node = await start(here(recipe_of_run()), environment)
        try:
            shown = await transcript(node)
            assert shown.count("person") == 1
            assert shown.count("phone ") >= 1
            assert "failed" not in shown
            for line in said:
                process = await start(here(line), environment)
                async with asyncio.timeout(WAIT_S):
                    answer, errors = await process.communicate()
                assert process.returncode == 0, errors.decode()
                question = shlex.split(line)[3]
                assert len(answer.split()) >= 3, (line, answer)
                assert question not in answer.decode()
            node.send_signal(signal.SIGINT)
            async with asyncio.timeout(WAIT_S):
                _, errors = await node.communicate()
            assert node.returncode == 0, errors.decode()
            assert "Traceback" not in errors.decode()
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.process
def test_a_closed_terminal_stops_the_node_cleanly_also_one_that_waits_for_another(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        environment = settings(tmp_path)
        first = await start(here(recipe_of_run()), environment)
        await transcript(first)
        # The first one holds the leases, so that this one waits before it is ready.
        second = await start(here(recipe_of_run()), environment)
        try:
            assert second.stderr is not None
            async with asyncio.timeout(WAIT_S):
                while "standing by" not in (await second.stderr.readline()).decode():
                    assert not second.stderr.at_eof()
                second.send_signal(signal.SIGHUP)
                assert await second.wait() == 0
                first.send_signal(signal.SIGHUP)
                assert await first.wait() == 0
        finally:
            for process in (first, second):
                if process.returncode is None:
                    process.kill()
                await process.communicate()

    asyncio.run(scenario())


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_agents_of_the_readme_answer(block: str, tmp_path: Path) -> None:
    path = tmp_path / "agents.py"
    path.write_text(block)

    async def scenario() -> None:
        async with AgentWorld(list(load_registry(str(path)))) as world:
            assert await world.say("hello") == ["You said: hello"]

    asyncio.run(scenario())
