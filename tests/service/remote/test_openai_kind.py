"""Agents behind OpenAI-compatible endpoints: our own one, and some that are broken."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse, RedirectResponse, Response

from angarium.agents.agent import Agent
from angarium.agents.contract import Done, Text, Usage
from angarium.agents.remote import Remote
from angarium.errors import (
    AgentFailed,
    AngariumError,
    BadReply,
    Misconfigured,
    ReplyCutOff,
    TooLarge,
    Unavailable,
)
from angarium.limits import AGENT_TEXT_BYTES_MAX
from angarium.testing.agents import AgentWorld

from .endpoint import endpoint
from .services import ADA, Service, answer, events, opened, stream


def chat(url: str, **named: Any) -> Any:
    return Remote.openai("chat", "Chats", base_url=url, model="m", **named)


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> str:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


# --- against our own endpoint ---------------------------------------------------------


async def talker(turn: Any) -> AsyncIterator[Any]:
    for role, text in turn.history:
        yield f"[{role}: {text}]"
    yield f"{turn.text} €"
    yield Usage(input_tokens=1000, output_tokens=500)


def test_one_node_talks_to_the_agent_of_another() -> None:
    async def scenario() -> None:
        async with endpoint(talker) as served:
            key = SecretStr(served.token())
            agent = Remote.openai(
                "far",
                "Far away",
                base_url=served.base_url,
                model="talker",
                api_key=key,
                price_usd=(2.0, 4.0),
            )
            async with opened(agent) as runner:
                found = await events(
                    runner, agent, "bye", history=[("user", "hi"), ("agent", "yo")]
                )
        assert "".join(event.text for event in found if isinstance(event, Text)) == (
            "[user: hi][agent: yo]bye €"
        )
        assert found[-2:] == [Usage(1000, 500, 1, 0.004, "talker"), Done()]

    asyncio.run(scenario())


def test_a_stop_here_stops_the_agent_there() -> None:
    stopped = asyncio.Event()

    said = 0

    async def endless(turn: Any) -> AsyncIterator[str]:
        nonlocal said
        try:
            while True:
                yield "more "
                said += 5
                await asyncio.sleep(0)
        finally:
            stopped.set()

    async def scenario() -> None:
        async with endpoint(endless) as served:
            agent = Remote.openai(
                "far",
                "Far away",
                base_url=served.base_url,
                model="endless",
                api_key=SecretStr(served.token()),
            )
            async with opened(agent) as runner:
                run = runner.run("far", "go", (), ADA)
                assert await anext(run) == Text("more ")
                await run.aclose()
                async with asyncio.timeout(5):
                    await stopped.wait()
            assert said < AGENT_TEXT_BYTES_MAX // 10, "it was not stopped by its own flood"

    asyncio.run(scenario())


def test_a_chain_of_nodes_keeps_its_questions_apart() -> None:
    """What asks far away is text here: the next message of the chat answers it."""

    async def order(turn: Any) -> str:
        return f"Order {await turn.ask('Which one?')} is on its way."

    async def scenario() -> None:
        async with endpoint(order) as served:
            agent = Remote.openai(
                "far",
                "Far away",
                base_url=served.base_url,
                model="order",
                api_key=SecretStr(served.token()),
            )
            first = await answer(agent, "where is it?")
            second = await answer(
                agent, "A1", history=[("user", "where is it?"), ("agent", first)]
            )
        assert (first, second) == ("Which one?", "Order A1 is on its way.")

    asyncio.run(scenario())


# --- what is sent ---------------------------------------------------------------------


def test_a_request_holds_what_was_declared() -> None:
    async def scenario() -> None:
        async with Service(lambda *_: stream(chunk("ok", "stop"), "data: [DONE]\n\n")) as far:
            agent = chat(
                far.url,
                prompt="Be brief.",
                extra={"temperature": 0.1, "model": "never"},
                api_key=SecretStr("k"),
            )
            await answer(agent, "hi", history=[("agent", "yo")], key="k1")
            await answer(agent, "hi", history=[("agent", "yo")], key="k1")
            (headers, body), (again, _) = far.heard
        sent = json.loads(body)
        assert sent["model"] == "m"
        assert sent["temperature"] == 0.1
        assert sent["stream"] is True
        assert sent["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "yo"},
            {"role": "user", "content": "hi"},
        ]
        assert "@ada" not in body.decode(), "the service learns no user id"
        assert headers["authorization"] == "Bearer k"
        assert headers["idempotency-key"] == again["idempotency-key"]

    asyncio.run(scenario())


def test_without_a_key_none_is_sent() -> None:
    async def scenario() -> None:
        async with Service(lambda *_: stream(chunk("ok", "stop"))) as far:
            await answer(chat(far.url))
            assert "authorization" not in far.heard[0][0]

    asyncio.run(scenario())


# --- what is answered -----------------------------------------------------------------


@pytest.mark.parametrize(
    "answered",
    [
        stream(chunk("42"), chunk(" €", "stop"), "data: [DONE]\n\n"),
        stream(chunk("42 €"), chunk(None, "stop")),  # Some never say that they are done.
        stream(": a comment\n\n", chunk(""), chunk("42 €"), "data: [DONE]\n\n", "garbage"),
        JSONResponse({"choices": [{"message": {"content": "42 €"}}]}),
        JSONResponse({"choices": [{"message": {"content": None, "refusal": "42 €"}}]}),
    ],
)
def test_an_answer_whole_or_in_pieces_reaches_the_person(answered: Response) -> None:
    async def scenario() -> str:
        async with Service(lambda *_: answered) as far:
            return await answer(chat(far.url))

    assert asyncio.run(scenario()) == "42 €"


def test_a_filtered_answer_says_so() -> None:
    async def scenario() -> str:
        async with Service(lambda *_: stream(chunk("Well", "content_filter"))) as far:
            return await answer(chat(far.url))

    assert "content filter" in asyncio.run(scenario())


BAD: list[tuple[str, Any, type[AngariumError]]] = [
    ("10 MB", Response(b"x" * 10_000_000, media_type="application/json"), TooLarge),
    ("a piece of 10 MB", stream("data: " + "x" * 10_000_000), TooLarge),
    ("no UTF-8", stream(b"data: \xff\n\n"), BadReply),
    ("no JSON", stream("data: {\n\n"), BadReply),
    ("a list", stream("data: []\n\n"), BadReply),
    ("choices of numbers", stream('data: {"choices": [1]}\n\n'), BadReply),
    ("choices that are a word", stream('data: {"choices": "x"}\n\n'), BadReply),
    ("content that is a number", stream('data: {"choices": [{"delta": {"content": 1}}]}\n\n'),
     BadReply),
    ("a delta that is a word", stream('data: {"choices": [{"delta": "x"}]}\n\n'), BadReply),
    ("no choice", JSONResponse({"choices": []}), BadReply),
    ("HTML", Response("<html>", media_type="text/html"), BadReply),
    ("a stream that stops", stream(chunk("half")), ReplyCutOff),
    ("a stream that is cut", stream(chunk("half"), broken=True), ReplyCutOff),
    ("nothing", stream(), ReplyCutOff),
    ("an error in the stream", stream(chunk("half"), 'data: {"error": {"a": "secret"}}\n\n'),
     AgentFailed),
    ("an error event", stream("event: error\ndata: secret\n\n"), AgentFailed),
    ("an error whole", JSONResponse({"error": {"message": "secret"}}), AgentFailed),
    ("a wrong key", JSONResponse({"error": "secret"}, 401), AgentFailed),
    ("a wrong request", JSONResponse({"error": "secret"}, 400), AgentFailed),
    ("a redirect", RedirectResponse("http://127.0.0.1:9/", 302), BadReply),
]  # fmt: skip


@pytest.mark.parametrize(("answered", "error"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_answer_has_a_name(answered: Response, error: type[AngariumError]) -> None:
    async def scenario() -> None:
        async with Service(lambda *_: answered) as far:
            with pytest.raises(AngariumError) as caught:
                await answer(chat(far.url))
            assert type(caught.value) is error
            assert "secret" not in str(caught.value)
            assert len(far.heard) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": -1}, {"prompt_tokens": "many"}])
def test_usage_that_makes_no_sense_counts_as_none(usage: Any) -> None:
    async def scenario() -> None:
        answered = stream(chunk("ok", "stop", usage=usage), "data: [DONE]\n\n")
        async with Service(lambda *_: answered) as far:
            agent = chat(far.url)
            async with opened(agent) as runner:
                found = await events(runner, agent)
        told = [event for event in found if isinstance(event, Usage)]
        assert all(event.input_tokens == event.output_tokens == 0 for event in told)

    asyncio.run(scenario())


def test_a_limit_is_heeded_and_then_told() -> None:
    async def scenario() -> None:
        limited = JSONResponse({}, 429, {"retry-after": "20"})
        async with Service(lambda *_: limited) as far:
            with pytest.raises(Unavailable) as caught:
                await answer(chat(far.url))
        assert caught.value.after_ms == 20_000

    asyncio.run(scenario())


def test_a_person_is_told_in_a_conversation_and_the_turn_names_why() -> None:
    async def scenario() -> None:
        fine = Agent("fine", "Fine")

        @fine.on_turn
        async def say(turn: Any) -> str:
            return "fine"

        async with Service(lambda *_: stream(chunk("half"))) as far:
            agent = chat(far.url)
            async with AgentWorld([agent, fine]) as world:
                said = await world.say("hi")
                assert said == ["Sorry, the answer broke off before its end. Please try again."]
                (record,) = await world.store.turns.list_recent(10)
                assert (record.state, record.reason) == ("failed", "reply_cut_off")
                assert await world.say("@fine hi") == ["fine"], "nobody else is harmed"
            await agent.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["Chat", "", "a b"])
def test_a_name_that_cannot_be_mentioned_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured):
        Remote.openai(name, "Chats", base_url="http://x/v1", model="m")
