"""`angarium chat` and `angarium phone` on a terminal, as a person uses them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from angarium.clock import SystemClock
from angarium.ids import UserId
from angarium.sdk.client import Client
from angarium.sdk.stored import own_device
from angarium.server.auth import mint_token
from angarium.server.http import free_port
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import RawClient
from angarium.testing.screen import Screen

from .nodes import Run, environment

pytestmark = [pytest.mark.slow, pytest.mark.process]

AGENTS = """
from angarium import Agent

parrot = Agent("parrot", "Says it back, or asks")

@parrot.on_turn
async def answer(turn):
    if turn.text == "paint":
        colour = await turn.ask("Which colour?", ["red", "green"])
        yield f"painted {colour}"
    else:
        yield "heard "
        yield turn.text
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fixed ports: a client comes back to where the node was."""
    agents = tmp_path_factory.mktemp("agents") / "agents.py"
    agents.write_text(AGENTS)
    ports = {
        name: str(free_port("127.0.0.1")) for name in ("port", "websocket_port", "phone_port")
    }
    return {"agents": str(agents), **ports}


@pytest.fixture(scope="module")
def node(
    run: Run, settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedNode]:
    served = ServedNode(tmp_path_factory.mktemp("terminal") / "node", settings=settings)
    run(served.start())
    yield served
    assert run(served.stop()) == 0


def test_a_chat_shows_each_line_once_and_obeys_its_commands(
    run: Run, node: ServedNode, settings: dict[str, str], tmp_path: Path
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("forty-two")

    async def scenario() -> None:
        async with Screen(
            "chat", "--user", "ann", environment=environment(node.folder, settings)
        ) as screen:
            await screen.shows("connected")
            screen.types("hello there")
            await screen.shows("parrot  heard hello there")
            screen.types("/agents")
            await screen.shows("@parrot: Says it back, or asks")
            screen.types("/verify")
            await screen.shows("The same on the other side?")
            screen.types("/nonsense")
            await screen.shows("There is no /nonsense.")
            screen.types("/save 1 x")
            await screen.shows("There is no attachment here yet.")
            screen.types(f"/attach {note} look")
            await screen.shows("attachment 1: note.txt, 9 bytes")
            screen.types(f"/save 1 {tmp_path}/copy.txt")
            await screen.shows("saved as")
            screen.types("/who")
            await screen.shows("  @gateway:angarium")
            screen.types("/quit")
            assert await screen.ended() == 0
            assert screen.text.count("you  hello there") == 1
            assert screen.text.count("parrot  heard hello there") == 1
            assert "Traceback" not in screen.text
        assert (tmp_path / "copy.txt").read_text() == "forty-two"

    run(scenario())


def test_a_chat_goes_on_through_a_kill_of_the_node_and_its_question_too(
    run: Run, node: ServedNode, settings: dict[str, str]
) -> None:
    async def scenario() -> None:
        async with Screen(
            "chat", "--user", "eve", environment=environment(node.folder, settings)
        ) as screen:
            await screen.shows("connected")
            screen.types("paint")
            await screen.shows("2. green")
            await node.kill()
            await screen.shows("offline, connecting again")
            screen.types("2")
            await screen.shows("1 message(s) will be sent then")
            await node.start()
            await screen.shows("painted green")
            screen.types("still there?")
            await screen.shows("heard still there?")
            screen.types("/quit")
            assert await screen.ended() == 0
            assert screen.text.count("parrot  painted green") == 1
        async with Screen(
            "chat", "--user", "eve", environment=environment(node.folder, settings)
        ) as screen:
            await screen.shows("parrot  heard still there?")  # The history.
            assert screen.text.count("parrot  painted green") == 1

    run(scenario())


def test_a_second_chat_of_the_same_person_is_told_and_harms_nothing(
    run: Run, node: ServedNode, settings: dict[str, str]
) -> None:
    async def scenario() -> None:
        told = environment(node.folder, settings)
        async with Screen("chat", "--user", "two", environment=told) as first:
            await first.shows("connected")
            async with Screen(
                "chat", "--user", "two", "--say", "x", environment=told
            ) as second:
                assert await second.ended() == 2
                await second.shows("another program uses")
            first.types("hello")
            await first.shows("heard hello")
        async with Screen("chat", "--user", "two", "--say", "y", environment=told) as third:
            await third.shows("heard y")
            assert await third.ended() == 0

    run(scenario())


def test_a_phone_asks_answers_stops_and_starts(
    run: Run, node: ServedNode, settings: dict[str, str]
) -> None:
    async def scenario() -> None:
        async with Screen("phone", environment=environment(node.folder, settings)) as screen:
            await screen.shows("/quit")
            screen.types("paint")
            await screen.shows("2. green")
            screen.types("/dup 1")
            await screen.shows("painted red")
            screen.types("/offline")
            await screen.shows("messages wait")
            screen.types("later")
            await screen.shows("vv", times=4)
            assert "heard later" not in screen.text
            screen.types("/online")
            await screen.shows("heard later")
            screen.types("STOP")
            await screen.shows("You will get no more messages here.")
            screen.types("START")
            await screen.shows("Welcome back.")
            screen.types("/number +15550004321")
            await screen.shows("now writing as +15550004321")
            screen.types("hi")
            await screen.shows("heard hi")
            screen.types("/quit")
            assert await screen.ended() == 0
            assert screen.text.count("painted red") == 1
            assert "Traceback" not in screen.text

    run(scenario())


@pytest.mark.parametrize("command", [["chat"], ["chat", "--say", "x"], ["phone", "--say", "x"]])
def test_without_a_node_there_is_one_clear_line(
    run: Run, command: list[str], tmp_path: Path
) -> None:
    async def scenario() -> None:
        ports = {name: str(free_port("127.0.0.1")) for name in ("port", "phone_port")}
        async with Screen(*command, environment=environment(tmp_path, ports)) as screen:
            assert await screen.ended() == 2
            await screen.shows("running?")
            assert len(screen.text.strip().splitlines()) == 1
            assert screen.text.startswith("error[unavailable]")

    run(scenario())


def test_a_gateway_that_was_displaced_comes_back_and_says_so(
    run: Run, node: ServedNode, tmp_path: Path
) -> None:
    async def scenario() -> None:
        user = UserId("@gateway:angarium")
        sqlite = await open_sqlite(node.folder, SystemClock())
        device = await own_device(sqlite.store.vault, user)
        await sqlite.close()
        token = mint_token(node.folder, user, ["user", "service"], 600.0)
        other = await RawClient.connect(node.websocket_url, device, token)
        await other.wait(other.closed)  # The gateway has taken its place again.
        assert "gateway.lost" in node.log_text()
        asker = "@zoe:angarium"
        async with Client(
            node.http_url, user=asker, token=mint_token(node.folder, asker), folder=tmp_path
        ) as client:
            talk = await client.converse(user)
            await talk.send("and now?")
            async with asyncio.timeout(30):
                async for message in talk.answers():
                    assert message.text == "heard and now?"
                    break

    run(scenario())


def test_a_second_device_says_that_it_is_not_linked_and_is_linked_by_typed_digits(
    run: Run, node: ServedNode, settings: dict[str, str], tmp_path: Path
) -> None:
    token = mint_token(node.folder, "@lin:angarium")
    elsewhere = environment(tmp_path / "second", settings)
    arguments = ("chat", "--user", "lin", "--token", token, "--url", node.http_url)

    async def scenario() -> None:
        async with Screen(
            "chat", "--user", "lin", environment=environment(node.folder, settings)
        ) as screen:
            await screen.shows("connected")
            screen.types("/devices")
            await screen.shows("No device waits to be linked.")
            async with Screen(*arguments, environment=elsewhere) as second:
                assert await second.ended() == 2
                await second.shows("not linked yet")
                told = " ".join(second.text.split())
            assert told.startswith("error[unverified_device]: ")
            device = told.partition("/link ")[2].split()[0]
            digits = told.split()[-6:]
            assert len("".join(digits)) == 30
            screen.types("/devices")
            await screen.shows(f"{device}  {' '.join(digits)}")
            screen.types("/link NOBODY")
            await screen.shows("No device of that name")
            screen.types(f"/link {device}")
            await screen.shows("Type the last 5 digits")
            screen.types("yes")
            await screen.shows("These are not the digits")
            screen.types(f"/link {device}")
            await screen.shows("Type the last 5 digits", times=2)
            screen.types(digits[-1])
            await screen.shows(f"{device} is linked.")
            async with Screen(*arguments, "--say", "hi", environment=elsewhere) as second:
                await second.shows("heard hi")
                assert await second.ended() == 0
            assert "heard yes" not in screen.text  # An answer is no message.
            screen.types("/quit")
            assert await screen.ended() == 0

    run(scenario())
