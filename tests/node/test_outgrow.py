"""A node outgrows its folder: what it kept is copied to MongoDB and served from there."""

import asyncio
import os
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from angarium.protocol.frames import Ok
from angarium.server.auth import SECRET_FILE
from angarium.server.http import free_port
from angarium.testing.mongo import COMMAND, MongoServer, find_server
from angarium.testing.process import ServedNode

from .nodes import ECHO, Pair, Talker, environment, pair

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    """A database of its own. No MongoDB: skipped here, a failure in CI."""
    server = None
    uri = os.environ.get("MONGODB_URI", "")
    if not uri:
        if find_spec("pymongo") is None or find_server() is None:
            sentence = f"no MongoDB: set MONGODB_URI, or install SecantusDB ({COMMAND})"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
        server = MongoServer(tmp_path / "mongo")
        uri = server.uri
    address, _, options = uri.partition("?")
    yield f"{address.rstrip('/')}/t_{uuid.uuid4().hex}?{options}".rstrip("?")
    if server is not None:
        server.close()


async def command(folder: Path, settings: dict[str, str], *arguments: str) -> tuple[int, str]:
    """(exit code, what it wrote) of an `angarium` command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "angarium", *arguments, env=environment(folder, settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(60):
        written, _ = await process.communicate()
    return int(process.returncode or 0), written.decode()


async def meet_again(people: Pair, node: ServedNode) -> Pair:
    """The same two devices, with the cursors they had."""
    talkers = [
        await Talker.join(node, old.device, {people.c: (1, 3)})
        for old in (people.ada, people.bob)
        if old.device is not None
    ]
    talkers[0].counter = people.ada.counter
    return Pair(node, talkers[0], talkers[1], people.c)


def test_a_conversation_goes_on_where_it_was_after_its_store_was_copied(
    tmp_path: Path, store_url: str
) -> None:
    (tmp_path / "agents.py").write_text(ECHO)
    folder = tmp_path / "node"
    settings = {
        "agents": str(tmp_path / "agents.py"),
        "phone_port": str(free_port("127.0.0.1")),
    }
    say = ("chat", "--user", "eve", "--say")
    copying = ("db", "copy", f"sqlite://{folder}", store_url)

    async def before() -> tuple[Pair, Ok]:
        async with ServedNode(folder, settings=settings) as node:
            people = await pair(node, "outgrow")
            told = [await people.say() for _ in range(3)]
            assert await command(folder, settings, *say, "one") == (0, "echo one\n")
            code, written = await command(folder, settings, *copying)
            assert (code, "error[store_in_use]" in written) == (2, True)
            await people.leave()
        assert isinstance(told[-1], Ok)
        return people, told[-1]

    async def after(people: Pair, told: Ok, shared: dict[str, str]) -> None:
        async with ServedNode(folder, settings=shared) as node:
            again = await meet_again(people, node)
            assert [sequence for sequence, _, _ in await again.stored()] == [1, 2, 3]
            answer = await again.say()
            assert isinstance(answer, Ok)
            assert (answer.s, answer.e) == (told.s + 1, told.e)
            await again.assert_alive()
            # The gateway opens its copied ratchets: the old session of this device goes on.
            assert await command(folder, shared, *say, "two") == (0, "echo two\n")
            await again.leave()

    async def scenario() -> None:
        people, told = await before()
        code, table = await command(folder, settings, *copying)
        assert code == 0, table
        shared = settings | {
            "store_url": store_url,
            "token_secret": (folder / SECRET_FILE).read_text().strip(),
            "kms_url": f"local://{folder}/kms.json",
        }
        assert (await command(folder, shared, "db", "check"))[0] == 0
        (folder / "angarium.db").rename(tmp_path / "never served again")
        await after(people, told, shared)

    asyncio.run(scenario())
