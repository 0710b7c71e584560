"""Whole journeys through the SDK, the wire and a real node."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from angarium.errors import UnverifiedDevice
from angarium.sdk.client import Client, Message, Piece
from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode

pytestmark = [pytest.mark.slow, pytest.mark.process]

AGENTS = """
from angarium import Agent

files = Agent("files", "Reads files, streams, asks")

@files.on_turn
async def answer(turn):
    if turn.attachments:
        content = await turn.attachments[0].read()
        yield f"{turn.attachments[0].name} has {len(content)} bytes"
    elif turn.text == "ask me":
        colour = await turn.ask("Which colour?", options=["red", "blue"])
        yield f"You like {colour}"
    else:
        yield "one "
        yield "two "
        yield "three"
"""


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[ServedNode]:
    (folder / "agents.py").write_text(AGENTS)
    settings = {"agents": str(folder / "agents.py"), "rate_per_minute": "100000"}
    async with ServedNode(folder / "node", settings=settings) as node:
        yield node


def client_of(node: ServedNode, folder: Path, name: str, device: str = "") -> Client:
    user = f"@{name}:angarium"
    token = mint_token(node.folder, user)
    return Client(node.http_url, user=user, token=token, folder=folder / f"{name}{device}")


def run(scenario: Callable[[Path], Awaitable[None]], folder: Path) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario(folder)

    asyncio.run(bounded())


async def next_answer(client: Client, text: str) -> Message:
    talk = await client.converse(client.gateway)
    await talk.send(text)
    async for message in talk.answers():
        return message
    raise AssertionError("the conversation ended")


def test_an_answer_is_streamed_and_then_replaced_by_the_whole(tmp_path: Path) -> None:
    async def scenario(folder: Path) -> None:
        async with served(folder) as node, client_of(node, folder, "ada") as ada:
            talk = await ada.converse(ada.gateway)
            await talk.send("go on")
            pieces: list[str] = []
            async for item in talk.stream():
                if isinstance(item, Piece):
                    pieces.append(item.text)
                    continue
                assert item.text == "one two three"
                break
            assert "".join(pieces) in ("", "one ", "one two ", "one two three")

    run(scenario, tmp_path)


def test_an_attachment_reaches_an_agent_and_another_person_unchanged(tmp_path: Path) -> None:
    async def scenario(folder: Path) -> None:
        content = bytes(range(256)) * 9000  # More than two chunks.
        (folder / "photo.bin").write_bytes(content)
        async with (
            served(folder) as node,
            client_of(node, folder, "ada") as ada,
            client_of(node, folder, "ben") as ben,
        ):
            agent = await ada.converse(ada.gateway)
            await agent.send("", attach=[folder / "photo.bin"])
            async for message in agent.answers():
                assert message.text == f"photo.bin has {len(content)} bytes"
                break
            to_ben = await ada.converse("@ben:angarium")
            await to_ben.send("look", attach=[folder / "photo.bin"])
            async for message in ben.conversation(to_ben.id).messages():
                saved = await message.attachments[0].save(folder / "saved.bin")
                assert saved.read_bytes() == content
                break

    run(scenario, tmp_path)


def test_a_question_waits_through_a_restart_of_everything(tmp_path: Path) -> None:
    async def scenario(folder: Path) -> None:
        async with served(folder) as node:
            async with client_of(node, folder, "ada") as ada:
                question = await next_answer(ada, "ask me")
                assert question.body.options == ["red", "blue"]
            await node.kill()
            await node.start()
            async with client_of(node, folder, "ada") as ada:
                assert (await next_answer(ada, "blue")).text == "You like blue"

    run(scenario, tmp_path)


def test_both_ends_see_the_same_safety_number(tmp_path: Path) -> None:
    async def scenario(folder: Path) -> None:
        async with (
            served(folder) as node,
            client_of(node, folder, "ada") as ada,
            client_of(node, folder, "ben") as ben,
        ):
            ours = await ada.safety_number("@ben:angarium")
            assert ours == await ben.safety_number("@ada:angarium")
            assert len("".join(ours.split())) == 60

    run(scenario, tmp_path)


def test_a_second_device_is_linked_by_the_first_and_both_read_on(tmp_path: Path) -> None:
    async def scenario(folder: Path) -> None:
        async with (
            served(folder) as node,
            client_of(node, folder, "ada") as phone,
            client_of(node, folder, "ben") as ben,
        ):
            laptop = client_of(node, folder, "ada", "-laptop")
            with pytest.raises(UnverifiedDevice, match="not linked yet"):
                await laptop.__aenter__()
            (waiting,) = await phone.unlinked_devices()
            assert waiting.fingerprint == laptop.fingerprint
            with pytest.raises(UnverifiedDevice, match="differ"):
                await phone.link(waiting.id, "00000 " * 6)
            await phone.link(waiting.id, laptop.fingerprint)
            async with client_of(node, folder, "ada", "-laptop") as laptop:
                talk = await ben.converse("@ada:angarium")
                await talk.send("to both of you")
                for device in (phone, laptop):
                    async for message in device.conversation(talk.id).messages():
                        assert (message.text, message.problem) == ("to both of you", "")
                        break
                await laptop.conversation(talk.id).send("from the laptop")
                async for message in phone.conversation(talk.id).messages():
                    if message.sequence == 2:
                        assert (message.text, message.own) == ("from the laptop", True)
                        break

    run(scenario, tmp_path)
