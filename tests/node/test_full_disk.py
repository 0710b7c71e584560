"""The store cannot be written while the node runs: coded errors, nothing lost, no restart."""

import asyncio
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path

import pytest

from angarium.clock import SystemClock
from angarium.errors import StoreUnwritable, Unavailable
from angarium.ids import MessageKey
from angarium.protocol.frames import Ok, Send
from angarium.sdk.client import Client, Conversation
from angarium.server.auth import mint_token
from angarium.server.http import free_port
from angarium.storage.care import check
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.process import ServedNode

from .nodes import ECHO, WAIT_S, Pair, Run, get, pair, serve_until_it_ends
from .test_bad_input import phones_of

pytestmark = [pytest.mark.process, pytest.mark.slow]

DISK_BYTES = 12 * 1024 * 1024
CT_BYTES = 16 * 1024


def write_for_ever(file: RawIOBase, size: int) -> None:
    while True:
        file.write(bytes(size))


class Disk:
    """A small disk, on which the node's folder lies."""

    def __init__(self, folder: Path) -> None:
        self.ballast = folder / "ballast"

    def fill(self) -> None:
        """Until not one more byte fits."""
        with self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with pytest.raises(OSError, match="No space left"):
                    write_for_ever(file, size)

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "angarium-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted by this user")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


def prepare(folder: Path, place: Path) -> ServedNode:
    """A node that is not started yet; its agents' file lies in `place`."""
    (place / "agents.py").write_text(ECHO)
    settings = {
        "agents": str(place / "agents.py"),
        "rate_per_minute": "100000",
        "phone_port": str(free_port("127.0.0.1")),
        "drain_grace_s": "0.2",
    }
    return ServedNode(folder, settings=settings)


async def send_until_refused(people: Pair) -> tuple[list[Send], Send, str]:
    """(what was accepted, what was not, why not)."""
    accepted: list[Send] = []
    async with asyncio.timeout(WAIT_S):
        while True:
            send = people.next_send(ct=os.urandom(CT_BYTES))
            told = await people.ada.answer(send)
            if not isinstance(told, Ok):
                assert told.retry, "a client would give up"
                return accepted, send, told.code
            accepted.append(send)


async def until_ready(node: ServedNode) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await get(node, "/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def assert_kept(folder: Path, people: Pair, sends: list[Send]) -> None:
    """In the store that was left: each accepted message once, in order, whole."""
    report = await asyncio.to_thread(check, folder)
    assert report.sound, report.problems
    sqlite = await open_sqlite(folder, SystemClock())
    try:
        device = people.bob.device.device
        log = await sqlite.store.log.read(people.c, device, 1, 100_000, 1 << 30)
    finally:
        await sqlite.close()
    assert [message.sequence for message in log] == list(range(1, len(log) + 1))
    kept = [(message.key, message.to[device]) for message in log]
    assert kept == [(MessageKey(send.key), send.to[0].ct) for send in sends]


async def through_an_outage(
    node: ServedNode, place: Path, code: str, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    """Accept, refuse while the outage lasts, accept again; then look at what is kept."""
    people = await pair(node, "outage")
    token = mint_token(node.folder, "@carol:angarium")
    async with Client(
        node.http_url, user="@carol:angarium", token=token, folder=place / "carol"
    ) as carol:
        agent = await carol.converse("@gateway:angarium")
        answers = agent.answers()
        await agent.send("before")
        assert (await anext(answers)).text == "echo before"
        ours = await refuse_and_recover(node, people, agent, code, begin, end)
        for text in ("meanwhile", "after"):
            assert (await anext(answers)).text == f"echo {text}"
        assert [message.text for message in await agent.history() if not message.own] == [
            "echo before", "echo meanwhile", "echo after",
        ]  # fmt: skip
    await people.leave()
    assert await node.stop() == 0
    await assert_kept(node.folder, people, ours)


async def refuse_and_recover(
    node: ServedNode,
    people: Pair,
    agent: Conversation,
    code: str,
    begin: Callable[[], None],
    end: Callable[[], None],
) -> list[Send]:
    """Every send of Ada's that was accepted."""
    sends = [people.next_send(ct=os.urandom(CT_BYTES)) for _ in range(20)]
    for send in sends:
        assert isinstance(await people.ada.answer(send), Ok)
    begin()
    accepted, refused, why = await send_until_refused(people)
    assert why == code
    await agent.send("meanwhile", wait=False)
    with pytest.raises(StoreUnwritable) as no_file:
        await agent.send("with a file", attach=[Path(__file__)])
    assert no_file.value.code == code
    ready = await get(node, "/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["store"] == code
    assert (await get(node, "/livez")).status_code == 200
    async with phones_of(node) as phones:
        form = phones.form("while the disk is full", "+15550000301")
        with pytest.raises(Unavailable, match="answered 503"):
            await phones.post(phones.webhook_url, form)  # Twilio's to repeat.
        assert (await people.ada.answer(refused)).code == code
        end()
        await until_ready(node)
        assert isinstance(await people.ada.answer(refused), Ok)  # The same key, the same bytes.
        await phones.post(phones.webhook_url, form)
        answer = await phones.next_reply("+15550000301")
        assert answer.body.endswith("echo while the disk is full")
        await phones.settled()
    last = people.next_send()
    assert isinstance(await people.ada.answer(last), Ok)
    await agent.send("after")
    return [*sends, *accepted, refused, last]


def test_a_full_disk_refuses_by_name_loses_nothing_and_recovers(
    run: Run, disk: Disk, tmp_path: Path
) -> None:
    async def scenario() -> None:
        node = prepare(disk.ballast.parent / "node", tmp_path)
        await node.start()
        try:
            await through_an_outage(node, tmp_path, "disk_full", disk.fill, disk.free)
        finally:
            await node.kill()

    run(scenario())


def test_a_node_on_a_full_disk_does_not_start_and_leaves_what_is_there(
    run: Run, disk: Disk, tmp_path: Path
) -> None:
    folder = disk.ballast.parent / "node"

    async def scenario() -> None:
        node = prepare(folder, tmp_path)
        await node.start()
        people = await pair(node, "later")
        sends = [people.next_send(ct=os.urandom(CT_BYTES)) for _ in range(3)]
        for send in sends:
            assert isinstance(await people.ada.answer(send), Ok)
        await node.kill()  # What was acknowledged lies in the write-ahead log.
        disk.fill()
        code, written = await serve_until_it_ends(folder, {})
        assert (code, written.startswith("error[disk_full]: ")) == (2, True), written
        disk.free()
        await assert_kept(folder, people, sends)
        await people.leave()

    run(scenario())


def test_files_that_may_not_be_written_refuse_by_name_and_recover(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        node = prepare(tmp_path / "node", tmp_path)
        await node.start()

        def limit(file_bytes: int) -> None:
            hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (file_bytes, hard))

        try:
            await through_an_outage(
                node, tmp_path, "store_unwritable",
                lambda: limit(0), lambda: limit(resource.RLIM_INFINITY),
            )  # fmt: skip
        finally:
            await node.kill()

    run(scenario())
