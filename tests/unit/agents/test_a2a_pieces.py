"""What a remote task says is given once, through chunks, snapshots and breaks."""

import asyncio

import httpx
import pytest
from a2a.types import Artifact, Part, StreamResponse, Task, TaskArtifactUpdateEvent

from angarium.agents.contract import Text
from angarium.agents.kinds.a2a_http import make_client
from angarium.agents.kinds.a2a_pieces import Pieces
from angarium.errors import BadReply


def chunk(text: str, append: bool = True) -> StreamResponse:
    artifact = Artifact(artifact_id="r", parts=[Part(text=text)])
    return StreamResponse(
        artifact_update=TaskArtifactUpdateEvent(artifact=artifact, append=append)
    )


def snapshot(*texts: str) -> StreamResponse:
    parts = [Part(text=text) for text in texts]
    return StreamResponse(task=Task(artifacts=[Artifact(artifact_id="r", parts=parts)]))


def said(pieces: Pieces, *responses: StreamResponse) -> str:
    events = [event for response in responses for event in pieces.take(response)]
    return "".join(event.text for event in events if isinstance(event, Text))


def test_after_a_break_a_chunk_that_is_in_the_snapshot_is_not_said_again() -> None:
    pieces = Pieces()
    assert said(pieces, chunk("a", append=False)) == "a"
    pieces.snapshots_only = True
    assert said(pieces, snapshot("a", "b"), chunk("b"), snapshot("a", "b", "c")) == "bc"


def test_a_snapshot_of_a_server_that_has_forgotten_takes_nothing_back() -> None:
    pieces = Pieces()
    assert said(pieces, chunk("a", append=False), chunk("b"), snapshot("a")) == "ab"


def test_what_an_earlier_round_gave_is_not_given_again_unless_it_is_another() -> None:
    first = Pieces()
    said(first, snapshot("a", "b"))
    assert said(Pieces(first.had()), snapshot("a", "b", "c")) == "c"
    assert said(Pieces(first.had()), snapshot("x", "y")) == "xy"


def test_no_other_host_is_called_whatever_an_agent_says() -> None:
    async def scenario() -> None:
        async with make_client(["http://agent.test:80"], {}, 1.0) as http:
            with pytest.raises(BadReply):
                await http.send(httpx.Request("GET", "http://other.test/"))

    asyncio.run(scenario())
