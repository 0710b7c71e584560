"""The gateway lost its sessions: people and contacts are asked to send again, and are heard."""

import asyncio
from pathlib import Path

import pytest

from angarium.agents.guard import UNREAD
from angarium.clock import SystemClock
from angarium.ids import UserId
from angarium.sdk.client import Client, Conversation
from angarium.sdk.stored import own_device
from angarium.server.auth import mint_token
from angarium.server.http import free_port
from angarium.storage.contract import DropRecord
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.process import ServedNode

from .nodes import ECHO
from .test_bad_input import phones_of

pytestmark = [pytest.mark.slow, pytest.mark.process]

NUMBER = "+15550000301"


async def forget_sessions(folder: Path, user: str) -> int:
    """The device of `user` that the node keeps has no ratchet left; how many it had."""
    sqlite = await open_sqlite(folder, SystemClock())
    try:
        vault = sqlite.store.vault
        scope = f"device/{await own_device(vault, UserId(user))}"
        records = await vault.read(scope, "engine/session/")
        await vault.write([DropRecord(scope, record.key) for record in records])
    finally:
        await sqlite.close()
    return len(records)


async def said(talk: Conversation, text: str) -> str:
    await talk.send(text)
    async for message in talk.answers():
        return message.text
    raise AssertionError("the conversation ended")


def test_who_cannot_be_read_any_more_is_told_and_heard_again(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(ECHO)
    settings = {
        name: str(free_port("127.0.0.1")) for name in ("port", "websocket_port", "phone_port")
    }
    settings["agents"] = str(tmp_path / "agents.py")
    node = ServedNode(tmp_path / "node", settings=settings)

    async def scenario() -> None:
        async with node, phones_of(node) as phones:
            token = mint_token(node.folder, "@ada:angarium")
            async with Client(
                node.http_url, user="@ada:angarium", token=token, folder=tmp_path / "ada"
            ) as ada:
                talk = await ada.converse(ada.gateway)
                assert await said(talk, "before") == "echo before"
                await phones.say("before", NUMBER)
                assert (await phones.next_reply(NUMBER)).body.endswith("echo before")
                assert await node.stop() == 0
                assert await forget_sessions(node.folder, ada.gateway) >= 2
                await node.start()
                assert await said(talk, "lost") == UNREAD.sentence
                assert await said(talk, "after") == "echo after"
                await phones.say("lost", NUMBER)
                told = await phones.next_reply(NUMBER, after=1)
                assert told.body == UNREAD.sentence
                await phones.say("after", NUMBER)
                reply = await phones.next_reply(NUMBER, after=2)
                assert reply.body == "echo after"

    async def bounded() -> None:
        async with asyncio.timeout(90):
            await scenario()

    asyncio.run(bounded())
