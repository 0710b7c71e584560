"""`angarium dev`: what is saved answers next, what does not load changes nothing."""

import asyncio
import time
from pathlib import Path

import pytest

from angarium.sdk.client import Client
from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode

pytestmark = [pytest.mark.slow, pytest.mark.process]

SLOW = """
import asyncio
from angarium import Agent
from words import WORD

echo = Agent("echo", "Says a word")

@echo.on_turn
async def answer(turn):
    if turn.text == "slowly":
        yield "begun "
        await asyncio.sleep(2.5)
    yield WORD
"""
LOADED = "now answering: echo"
REFUSED = "does not load; the old agents stay"


async def said(node: ServedNode, sentence: str, times: int = 1) -> None:
    deadline = time.monotonic() + 20
    # The screen of a child process wraps; what it says is looked for without its spaces.
    while _plain(node.log_text()).count(_plain(sentence)) < times:
        assert time.monotonic() < deadline, node.log_text()
        await asyncio.sleep(0.05)


def _plain(text: str) -> str:
    return "".join(text.split())


def test_saved_agents_answer_at_once_while_connections_and_running_turns_stay(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "agents.py").write_text(SLOW)
    (project / "words.py").write_text('WORD = "old"')
    node = ServedNode(tmp_path / "data", command="dev", services=str(project / "agents.py"))

    async def scenario() -> None:
        token = mint_token(node.folder, "@ada:angarium")
        folder = tmp_path / "ada"
        async with Client(
            node.http_url, user="@ada:angarium", token=token, folder=folder
        ) as ada:
            talk = await ada.converse(ada.gateway)
            answers = talk.answers()

            async def ask(text: str) -> str:
                await talk.send(text)
                return (await anext(answers)).text

            assert await ask("hello") == "old"
            assert "angarium chat" in node.log_text()

            await talk.send("slowly")
            await asyncio.sleep(0.5)
            (project / "words.py").write_text('WORD = "new"')
            await said(node, LOADED)
            assert (await anext(answers)).text == "begun old"
            assert await ask("hello") == "new"

            (project / "agents.py").write_text("def broken(:")
            await said(node, REFUSED)
            assert await ask("hello") == "new"
            (project / "agents.py").write_text("exit()")
            await said(node, REFUSED, 2)
            assert await ask("hello") == "new"

            (project / "words.py").write_text('WORD = "newest"')
            (project / "agents.py").write_text(SLOW)
            await said(node, LOADED, 2)
            assert await ask("hello") == "newest"

    async def bounded() -> None:
        async with asyncio.timeout(90), node:
            await scenario()

    asyncio.run(bounded())
    assert "Traceback" not in node.log_text()
