"""Files go with a reply: sealed, once, within bounds; operators see what a turn has used."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.contract import Media, ToolCall, ToolResult, Turn, Usage
from angarium.agents.media import LEFT_OUT, Files
from angarium.e2ee.attachments import FileOpener, SealedFile
from angarium.e2ee.body import FileRef
from angarium.errors import Unavailable
from angarium.ids import ConversationId
from angarium.limits import REPLY_FILES_MAX, TRACE_STEPS_MAX
from angarium.testing.agents import CONVERSATION, AgentWorld

PATIENCE = Patience(retry_min_s=0, retry_max_s=0, burst_quiet_s=0)


@dataclass
class Shelf:
    """A relay's blobs; `failures` uploads fail after they were stored."""

    stored: dict[str, list[bytes]] = field(default_factory=dict)
    uploads: int = 0
    failures: int = 0

    async def store(self, plan: SealedFile, data: bytes) -> bytes:
        self.uploads += 1
        chunks = [chunk for _, chunk in plan.seal(lambda at, wanted: data[at : at + wanted])]
        assert self.stored.setdefault(plan.blob, chunks) == chunks
        if self.failures:
            self.failures -= 1
            raise Unavailable
        return hashlib.sha256(b"".join(chunks)).digest()

    async def read(self, conversation: ConversationId, file: FileRef) -> bytes:
        opener = FileOpener(conversation, file)
        return b"".join(opener.open(iter(self.stored[file.blob])))


def in_world(
    scenario: Callable[[AgentWorld, Shelf], Awaitable[None]], function: Callable[[Turn], Any]
) -> None:
    agent, shelf = Agent("agent", "for tests"), Shelf()
    agent.on_turn(function)

    async def run() -> None:
        files = Files(shelf.read, shelf.store)
        async with AgentWorld([agent], patience=PATIENCE, files=files) as world:
            await scenario(world, shelf)

    asyncio.run(run())


async def draws(turn: Turn) -> Any:
    yield "Here: "
    yield Media("../../map.png", "image/png", b"\x89PNG" * 100)
    yield Media("list.txt", "text/plain", b"")


async def only_draws(turn: Turn) -> Any:
    yield Media("map.png", "image/png", b"\x89PNG")


def test_files_go_with_the_reply_and_open_again() -> None:
    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        assert await world.say("draw") == ["Here: "]
        (sent,) = world.answers()
        one, two = sent.body.files
        assert (one.name, one.content_type, one.size) == ("map.png", "image/png", 400)
        assert await shelf.read(CONVERSATION, one) == b"\x89PNG" * 100
        assert await shelf.read(CONVERSATION, two) == b""

    in_world(scenario, draws)


def test_a_file_alone_is_a_reply() -> None:
    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        assert await world.say("draw") == [""]
        assert len(world.answers()[0].body.files) == 1

    in_world(scenario, only_draws)


def test_an_upload_that_failed_is_made_again_at_the_same_place() -> None:
    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        shelf.failures = 2
        await world.say("draw")
        assert shelf.uploads == 4
        assert len(shelf.stored) == 2
        assert [file.blob for file in world.answers()[0].body.files] == list(shelf.stored)

    in_world(scenario, draws)


def test_a_turn_that_runs_again_after_a_crash_sends_the_same_file() -> None:
    reached = asyncio.Event()

    async def crashes(turn: Turn) -> Any:
        yield Media("map.png", "image/png", b"\x89PNG")
        if turn.attempt == 1:
            reached.set()
            await asyncio.Event().wait()

    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        await world.endpoint.receive(world.write_message("draw"))
        await reached.wait()
        await world.restart()
        await world.gateway.idle()
        (sent,) = world.answers()
        assert [file.blob for file in sent.body.files] == list(shelf.stored)
        assert (shelf.uploads, len(shelf.stored)) == (2, 1)

    in_world(scenario, crashes)


@pytest.mark.parametrize("count", [REPLY_FILES_MAX, REPLY_FILES_MAX + 2])
def test_more_files_than_fit_are_left_out_and_the_text_says_so(count: int) -> None:
    async def many(turn: Turn) -> Any:
        for number in range(count):
            yield Media(f"{number}.txt", "text/plain", b"the same")

    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        (text,) = await world.say("draw")
        assert text == LEFT_OUT * (count - REPLY_FILES_MAX)
        assert len(world.answers()[0].body.files) == len(shelf.stored) == REPLY_FILES_MAX

    in_world(scenario, many)


def test_files_together_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr("angarium.agents.media.REPLY_FILES_BYTES_MAX", 450)

    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        assert await world.say("draw") == ["Here: "]
        monkeypatch.setattr("angarium.agents.media.REPLY_FILES_BYTES_MAX", 300)
        assert await world.say("draw") == ["Here: " + LEFT_OUT + LEFT_OUT]

    in_world(scenario, draws)


def test_operators_see_what_a_turn_has_used_and_no_content() -> None:
    async def works(turn: Turn) -> Any:
        yield ToolCall("1", "look_up")
        yield ToolResult("1")
        yield Usage(input_tokens=10, output_tokens=2, requests=1, cost_usd=0.01, model="m")
        yield ToolCall("2", "pay")
        yield ToolResult("2", "unavailable")
        yield Usage(input_tokens=5, requests=1, model="m")
        if turn.text == "fail":
            raise ValueError("pomegranate")
        yield "done"

    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        for sequence, text in ((1, "go"), (3, "fail")):
            await world.say(text)
            packed = (await world.turn(sequence)).trace
            work = json.loads(packed)
            assert [step["name"] for step in work["steps"]] == ["look_up", "pay"]
            assert work["steps"][1]["problem"] == "unavailable"
            assert (work["input_tokens"], work["output_tokens"], work["requests"]) == (15, 2, 2)
            assert (work["cost_usd"], work["models"]) == (0.01, ["m"])
            assert b"pomegranate" not in packed

    in_world(scenario, works)


def test_what_operators_see_is_bounded() -> None:
    async def busy(turn: Turn) -> Any:
        for number in range(TRACE_STEPS_MAX + 5):
            yield ToolCall(str(number), "x" * 10_000)
        yield "done"

    async def scenario(world: AgentWorld, shelf: Shelf) -> None:
        await world.say("go")
        packed = (await world.turn(1)).trace
        assert json.loads(packed)["left_out"] == 5
        assert len(packed) < 12_000

    in_world(scenario, busy)
