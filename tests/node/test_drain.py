"""SIGTERM while people write: the node drains, ends with 0 in time, and nothing is lost."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import picows
import pytest

from angarium.protocol.frames import Goaway, Msg, Ok
from angarium.sdk.client import Client, Conversation
from angarium.sdk.contract import Delivered
from angarium.server.auth import mint_token
from angarium.server.http import free_port
from angarium.storage.care import check
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import RawClient, enrol

from .nodes import ECHO, Run, Talker, get, pair

pytestmark = [pytest.mark.process, pytest.mark.slow]

RESTARTS = 2
WRITTEN_BETWEEN = 10  # Messages acknowledged before each stop, of each kind.
BACK_WAIT_S = 90.0  # Clients come back at random within a window that grows while it is down.
STOP_MARGIN_S = 25.0  # Beyond the grace: turns get up to 5 s, and this machine may be busy.


def prepare(place: Path, grace_s: float, wait_s: float = 0.0) -> ServedNode:
    """A node on ports that stay the same through restarts; not started yet."""
    (place / "agents.py").write_text(ECHO)
    settings = {
        "agents": str(place / "agents.py"),
        "rate_per_minute": "100000",
        "port": str(free_port("127.0.0.1")),
        "websocket_port": str(free_port("127.0.0.1")),
        "phone_port": str(free_port("127.0.0.1")),
        "drain_grace_s": str(grace_s),
        "drain_wait_s": str(wait_s),
    }
    return ServedNode(place / "node", settings=settings)


class Writer:
    """Writes numbered messages, one after another, for as long as it is asked to."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation, self.texts = conversation, list[str]()
        self.stored: list[Delivered] = []
        self._progress = asyncio.Event()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while not self.stop.is_set():
            self.texts.append(f"m{len(self.texts)}")
            delivered = await self.conversation.send(self.texts[-1])
            assert isinstance(delivered, Delivered)
            self.stored.append(delivered)
            self._progress.set()

    async def wrote(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        goal = len(self.stored) + count
        async with asyncio.timeout(BACK_WAIT_S):
            while len(self.stored) < goal:
                self._progress.clear()
                await self._progress.wait()


async def answered(conversation: Conversation, count: int) -> list[str]:
    """The texts of all answers, once there are so many."""
    texts: list[str] = []
    async with asyncio.timeout(BACK_WAIT_S):
        async for message in conversation.messages():
            texts += [] if message.own else [message.text]
            if len(texts) >= count:
                return texts
    return texts


@pytest.mark.timeout(300)
def test_restarts_while_people_write_lose_nothing_and_answer_once(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        node = prepare(tmp_path, grace_s=1)
        await node.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(node.kill)
            people = [
                await stack.enter_async_context(
                    Client(
                        node.http_url, user=user, token=mint_token(node.folder, user),
                        folder=tmp_path / name,
                    )
                )
                for name in ("ada", "bob")
                for user in [f"@{name}:angarium"]
            ]  # fmt: skip
            friends = await people[0].converse("@bob:angarium")
            agent = await people[1].converse("@gateway:angarium")
            writers = [Writer(friends), Writer(agent)]
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run())
                for _ in range(RESTARTS):
                    await asyncio.gather(*(each.wrote(WRITTEN_BETWEEN) for each in writers))
                    assert await node.stop() == 0
                    await node.start()
                await asyncio.gather(*(each.wrote(WRITTEN_BETWEEN) for each in writers))
                for writer in writers:
                    writer.stop.set()
            heard = people[1].conversation(friends.id)
            assert await answered(heard, len(writers[0].texts)) == writers[0].texts
            answers = [f"echo {text}" for text in writers[1].texts]
            assert await answered(agent, len(answers)) == answers
            assert [each.sequence for each in writers[0].stored] == list(
                range(1, len(writers[0].texts) + 1)
            )
            kept = await agent.history(100_000)
            assert [message.sequence for message in kept] == list(range(1, len(kept) + 1))
            assert not [message.problem for message in kept if message.problem]
            assert len(kept) == 2 * len(answers)  # Not one answer came twice.
            assert await node.stop() == 0
        report = await asyncio.to_thread(check, node.folder)
        assert report.sound, report.problems
        assert "Traceback" not in node.log_text()

    run(scenario())


def test_a_drain_is_announced_serves_to_the_end_and_keeps_its_deadline(
    run: Run, tmp_path: Path
) -> None:
    grace_s = 3.0

    async def scenario() -> None:
        node = prepare(tmp_path, grace_s)
        await node.start()
        try:
            people = await pair(node, "drained")
            await people.assert_alive()
            started_s = asyncio.get_running_loop().time()
            os.kill(node.pid, signal.SIGTERM)
            told = await people.ada.next(Goaway)
            assert (told.why, told.deadline_ms) == ("drain", round(grace_s * 1000))
            ready = await get(node, "/readyz")
            assert (ready.status_code, ready.json()["checks"]["drain"]) == (503, "draining")
            last = people.next_send()
            assert isinstance(await people.ada.answer(last), Ok)  # Still served, and durable.
            assert (await people.bob.next(Msg, lambda m: m.key == last.key)).s == 2
            assert await people.ada.end() == (4001, "")
            assert await people.bob.end() == (4001, "")
            assert await node.stop() == 0
            took_s = asyncio.get_running_loop().time() - started_s
            assert grace_s * 0.9 < took_s < grace_s + STOP_MARGIN_S
        finally:
            await node.kill()

    run(scenario())


def test_a_node_that_everybody_left_does_not_wait_for_its_deadline(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        node = prepare(tmp_path, grace_s=50)
        await node.start()
        try:
            people = await pair(node, "left")
            await people.assert_alive()
            await people.leave()
            async with asyncio.timeout(STOP_MARGIN_S):
                assert await node.stop() == 0
        finally:
            await node.kill()

    run(scenario())


def test_a_node_that_is_not_ready_still_serves_until_the_balancer_has_noticed(
    run: Run, tmp_path: Path
) -> None:
    wait_s = 3.0

    async def scenario() -> None:
        node = prepare(tmp_path, grace_s=50, wait_s=wait_s)
        await node.start()
        try:
            people = await pair(node, "noticed")
            newcomer = await enrol(node, "@newcomer:angarium")
            os.kill(node.pid, signal.SIGTERM)
            asked_s = asyncio.get_running_loop().time()
            while (await get(node, "/readyz")).status_code == 200:
                pass
            # The balancer has not looked yet: it sends one more client here.
            late = await Talker.join(node, newcomer)
            await people.assert_alive()

            for each in (people.ada, late):
                await each.next(Goaway)
            assert asyncio.get_running_loop().time() - asked_s > wait_s * 0.9
            # The handshake itself is refused, so that a balancer asks the next node.
            with pytest.raises(picows.WSError, match="503"):
                await RawClient.open(node.websocket_url)
            await people.leave()
            await late.leave()
            async with asyncio.timeout(STOP_MARGIN_S):
                assert await node.stop() == 0
        finally:
            await node.kill()

    run(scenario())
