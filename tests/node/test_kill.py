"""kill -9 of the real process under load: nothing acknowledged is lost or answered twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from angarium.clock import SystemClock
from angarium.ids import MessageKey
from angarium.sdk.client import Client, Conversation
from angarium.sdk.contract import Delivered
from angarium.server.auth import mint_token
from angarium.server.http import free_port
from angarium.storage.care import check
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.process import ServedNode

KILLS = 10
MESSAGES_PER_S = 200
PEOPLE = 10  # In pairs, writing to each other; every one also asks the agent.
ASKED_SHARE = 0.1
QUIET_WAIT_S = 120.0
AGENT = """
from angarium import Agent

echo = Agent("echo", "Says it back", on_busy="enqueue")  # One answer for each message.

@echo.on_turn
async def answer(turn):
    return "echo " + turn.text
"""


class Tally:
    """Counts acknowledgements; kills happen after so many of them, not after so much time."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = asyncio.Event()

    def add(self, done: "asyncio.Task[Delivered]") -> None:
        self.count += 1
        self._moved.set()

    async def more(self, count: int) -> None:
        wanted = self.count + count
        while self.count < wanted:
            self._moved.clear()
            await self._moved.wait()


@dataclass
class Person:
    """A client, its conversations, and what it was promised."""

    client: Client
    friend: Conversation
    agent: Conversation
    tally: Tally
    keys: list[tuple[Conversation, MessageKey]] = field(default_factory=list)
    promises: list["asyncio.Task[Delivered]"] = field(default_factory=list)

    async def write(self, text: str, asks: bool) -> None:
        conversation = self.agent if asks else self.friend
        key = await conversation.send(text, wait=False)
        assert isinstance(key, str)
        self.keys.append((conversation, MessageKey(key)))
        sent = self.client.endpoint.sent(MessageKey(key))
        promise = asyncio.create_task(sent)
        promise.add_done_callback(self.tally.add)
        self.promises.append(promise)


async def enter_people(stack: AsyncExitStack, node: ServedNode, folder: Path) -> list[Person]:
    people: list[Person] = []
    tally = Tally()
    for number in range(PEOPLE):
        user = f"@p{number}:angarium"
        token = mint_token(node.folder, user)
        client = Client(node.http_url, user=user, token=token, folder=folder / f"p{number}")
        await stack.enter_async_context(client)
        people.append(Person(client, None, await client.converse("@gateway:angarium"), tally))  # type: ignore[arg-type]
    for number, person in enumerate(people):
        person.friend = await person.client.converse(f"@p{number ^ 1}:angarium")
        for asks in (False, True):  # Devices are known from now on: writing needs no network.
            await person.write("hello", asks)
    return people


async def write_until(stop: asyncio.Event, people: Sequence[Person], seed: int) -> None:
    chance = random.Random(seed)
    started, written = asyncio.get_running_loop().time(), 0
    while not stop.is_set():
        due = int((asyncio.get_running_loop().time() - started) * MESSAGES_PER_S)
        while written < due and not stop.is_set():
            written += 1
            await chance.choice(people).write(f"m{written}", chance.random() < ASKED_SHARE)
        await asyncio.sleep(0.005)


async def kill_again_and_again(node: ServedNode, tally: Tally, chance: random.Random) -> None:
    for _ in range(KILLS):
        async with asyncio.timeout(QUIET_WAIT_S):
            await tally.more(chance.randrange(30, 250))
        await node.kill()
        await node.start()


async def promised(people: Sequence[Person]) -> list[tuple[str, int, str]]:
    """(conversation, sequence, key) of everything submitted, once all is acknowledged."""
    found = []
    async with asyncio.timeout(QUIET_WAIT_S):
        for person in people:
            for delivered in await asyncio.gather(*person.promises):
                found.append((delivered.conversation, delivered.sequence, delivered.key))
    return found


async def answered(person: Person) -> Counter[str]:
    """How often each of the person's questions was answered, once the last one was."""
    asked = {key for conversation, key in person.keys if conversation is person.agent}
    counts: Counter[str] = Counter()
    async with asyncio.timeout(QUIET_WAIT_S):
        async for message in person.agent.messages():
            if not message.own:
                counts[message.body.ref] += 1
            if not asked - counts.keys():
                break
    # What came after the last first answer counts too: a second answer would.
    kept = await person.agent.history(100_000)
    return Counter(message.body.ref for message in kept if not message.own)


async def scenario(folder: Path, seed: int) -> None:
    (folder / "agents.py").write_text(AGENT)
    ports = {"port": str(free_port("127.0.0.1")), "websocket_port": str(free_port("127.0.0.1"))}
    settings = {"agents": str(folder / "agents.py"), "rate_per_minute": "1000000", **ports}
    node = ServedNode(folder / "node", settings=settings)
    await node.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(node.kill)
        people = await enter_people(stack, node, folder)
        stop = asyncio.Event()
        writing = asyncio.create_task(write_until(stop, people, seed))
        await kill_again_and_again(node, people[0].tally, random.Random(seed))
        stop.set()
        await writing
        stored = await promised(people)
        answers = [await answered(person) for person in people]
        await node.stop()

        assert all(set(counts.values()) <= {1} for counts in answers), "answered twice"
        for person in people:
            for conversation in (person.friend, person.agent):
                kept = await conversation.history(100_000)
                sequences = [message.sequence for message in kept]
                assert sequences == list(range(1, len(kept) + 1)), "not dense at a device"
                assert not [message.problem for message in kept if message.problem]
    await assert_stored(folder / "node", stored)


async def assert_stored(folder: Path, promised_messages: list[tuple[str, int, str]]) -> None:
    report = await asyncio.to_thread(check, folder)
    assert report.sound, report.problems
    sqlite = await open_sqlite(folder, SystemClock())
    try:
        for conversation in {conversation for conversation, _, _ in promised_messages}:
            log = await sqlite.store.log.read(conversation, "X", 1, 1_000_000, 1_000_000)  # type: ignore[arg-type]
            at = {message.key: message.sequence for message in log}
            assert len(at) == len(log) == log[-1].sequence
            for c, sequence, key in promised_messages:
                if c == conversation:
                    assert at.get(MessageKey(key)) == sequence, (
                        "an acknowledged message is lost"
                    )
    finally:
        await sqlite.close()


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(300)
def test_ten_kills_under_load_lose_nothing_and_answer_nothing_twice(tmp_path: Path) -> None:
    asyncio.run(scenario(tmp_path, seed=20261124))
