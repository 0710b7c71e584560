"""The real OpenAI client against a provider on loopback that answers as providers do."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import models

from angarium.agents.contract import Text
from angarium.agents.guard import classify
from angarium.agents.kinds.llm import LLM
from angarium.agents.turns import Patience
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.errors import (
    BadReply,
    Misconfigured,
    RateLimited,
    Refused,
    ReplyCutOff,
    Unavailable,
)
from angarium.testing.agents import AgentWorld

from .turns import one_turn

SECRET = "sk-canary"
AT_ONCE = Patience(first_event_s=20, turn_s=20, retry_min_s=0, retry_max_s=0)


def chunk(text, **more):
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, **more}
    made = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return f"data: {json.dumps(made | {'choices': [choice]})}\n\n".encode()


GOOD = chunk("Good ") + chunk("day.", finish_reason="stop") + b"data: [DONE]\n\n"
STREAM = "content-type: text/event-stream\r\n"
JSON = "content-type: application/json\r\n"


class Provider:
    """Answers each request with the next of `answers`, (status, headers, body), again and
    again with the last."""

    def __init__(self, *answers):
        self._answers, self.requests = list(answers), []

    @asynccontextmanager
    async def open(self):
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        number = min(len(self.requests), len(self._answers)) - 1
        status, headers, body = self._answers[number]
        writer.write(f"HTTP/1.1 {status} X\r\n{headers}connection: close\r\n\r\n".encode())
        writer.write(body)
        await writer.drain()
        writer.close()


def ask(monkeypatch, *answers, ward=None):
    """The provider, and what one turn of an agent on it gives."""
    monkeypatch.setattr(models, "ALLOW_MODEL_REQUESTS", True)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    provider = Provider(*answers)

    async def scenario():
        async with provider.open() as url:
            monkeypatch.setenv("OPENAI_BASE_URL", url)
            llm = LLM("shop", "sells", model="openai-chat:gpt-4o")
            try:
                if ward is not None:
                    await llm.open(ward)
                return [event async for event in llm.run(one_turn())]
            finally:
                await llm.close()

    return provider, scenario


def test_a_provider_streams_an_answer(monkeypatch):
    provider, run = ask(monkeypatch, (200, STREAM, GOOD))
    events = asyncio.run(run())
    said = "".join(event.text for event in events if isinstance(event, Text))
    assert said == "Good day."
    assert f"authorization: bearer {SECRET}" in provider.requests[0].decode().lower()


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _provider, run = ask(monkeypatch, (200, STREAM, GOOD))
    assert any(isinstance(event, Text) for event in asyncio.run(run()))


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (401, "", Misconfigured),
        (404, "", Misconfigured),
        (400, "", Refused),
        (429, "retry-after: 7\r\n", RateLimited),
        (500, "", Unavailable),
        (503, "", Unavailable),
        (307, "location: http://127.0.0.1:9/v1/chat/completions\r\n", BadReply),
    ],
)
def test_what_a_provider_refuses_has_a_name_here(monkeypatch, caplog, status, headers, error):
    body = json.dumps({"error": {"message": f"about {SECRET} of Ada", "code": "x"}}).encode()
    provider, run = ask(monkeypatch, (status, JSON + headers, body))
    with pytest.raises(error) as found:
        asyncio.run(run())
    assert len(provider.requests) == 1  # Trying again is the ward's work, not the client's.
    assert SECRET not in str(found.value) + caplog.text
    assert "Ada" not in str(found.value) + caplog.text
    if error is RateLimited:
        assert found.value.after_ms == 7000


@pytest.mark.parametrize(
    "body",
    [b"data: {]\n\n", b"data: \xff\xfe\n\n", b"data: [DONE]\n\n", b"<html>hello</html>", b""],
)
def test_garbage_from_a_provider_is_an_error_with_a_name(monkeypatch, body):
    _provider, run = ask(monkeypatch, (200, STREAM, body))
    with pytest.raises((BadReply, Unavailable)):
        asyncio.run(run())


def test_a_stream_that_stops_half_way_tells_the_person_and_keeps_the_gateway_going(
    monkeypatch,
):
    monkeypatch.setattr(models, "ALLOW_MODEL_REQUESTS", True)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    half = chunk("Good ") + b'data: {"id": '
    provider = Provider((200, STREAM, half), (200, STREAM, GOOD))

    async def scenario():
        async with provider.open() as url:
            monkeypatch.setenv("OPENAI_BASE_URL", url)
            llm = LLM("shop", "sells", model="openai-chat:gpt-4o")
            async with AgentWorld([llm], patience=AT_ONCE) as world:
                first = await world.say("hi")
                second = await world.say("hi")
            await llm.close()
        assert first == [classify(ReplyCutOff()).sentence]
        assert second == ["Good day."]

    asyncio.run(scenario())


def test_a_provider_that_fails_and_fails_is_not_asked_any_more(monkeypatch):
    ward = Ward(ManualClock())
    breaker = ward.breaker("provider:openai")
    while not breaker.is_open:
        breaker.fail()
    provider, run = ask(monkeypatch, (200, STREAM, GOOD), ward=ward)
    with pytest.raises(Unavailable):
        asyncio.run(run())
    assert provider.requests == []


def test_failures_of_a_provider_open_its_breaker(monkeypatch):
    ward = Ward(ManualClock())
    provider, run = ask(monkeypatch, (503, JSON, b"{}"), ward=ward)

    async def until_open():
        for _ in range(20):
            with pytest.raises(Unavailable):
                await run()

    asyncio.run(until_open())
    assert ward.states()["provider:openai"] == "open"
    assert len(provider.requests) < 20
