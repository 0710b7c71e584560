"""`angarium turns` against a real node."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from angarium.sdk.client import Client
from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode

from .nodes import Run

pytestmark = [pytest.mark.slow, pytest.mark.process]


def turns(node: ServedNode, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "angarium", "turns", *arguments, "--url", node.http_url]
    environment = {**os.environ, "ANGARIUM_DATA": str(node.folder)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_turns_are_listed_and_shown_and_what_cannot_be_done_is_said(
    node: ServedNode, run: Run, tmp_path: Path
) -> None:
    async def talk() -> None:
        user = "@ada:angarium"
        token = mint_token(node.folder, user, ttl_s=60.0)
        async with Client(
            node.http_url, user=user, token=token, folder=tmp_path / "ada"
        ) as client:
            conversation = await client.converse(client.gateway)
            await conversation.send("pomegranate")
            async for _ in conversation.answers():
                return

    run(talk())
    listed = turns(node, "list", "--limit", "1", "--state", "replied")
    assert listed.returncode == 0, listed.stderr
    assert "replied  @echo  1x  " in listed.stdout
    name = listed.stdout.split()[0]
    shown = turns(node, "show", name)
    found = json.loads(shown.stdout)
    assert (found["state"], found["replayable"]) == ("replied", False)
    assert "pomegranate" not in shown.stdout
    refused = turns(node, "replay", name)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error[conflict]: only a turn that has failed")
    assert turns(node, "cancel", "nonsense").stderr.startswith("error[malformed]: ")
