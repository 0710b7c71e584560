"""Agents behind CloudEvents: a real receiver, written with the CloudEvents SDK."""

import asyncio
import builtins
import json
from collections.abc import Callable
from typing import Any

import pytest
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from angarium.agents.contract import Done, Handoff, Media, Status, Text, Usage
from angarium.agents.direct import Asked
from angarium.agents.ledger import Journal
from angarium.agents.remote import Remote
from angarium.errors import (
    AgentFailed,
    AngariumError,
    BadReply,
    Misconfigured,
    NoReply,
    ReplyCutOff,
    TooLarge,
    Unavailable,
)
from angarium.limits import AGENT_TRIES, REMOTE_QUESTIONS_MAX
from angarium.resilience import BREAKER_CALLS_MIN

from .services import ADA, Service, answer, events, opened, stream

Answer = Callable[[Request, bytes], Response]


def event(data: Any, kind: str = "application/json") -> CloudEvent:
    attributes = {"type": "bill", "source": "/billing", "datacontenttype": kind}
    return CloudEvent(attributes, data)


def sent(message: HTTPMessage, status: int = 200) -> Response:
    return Response(message.body, status, dict(message.headers))


def heard(headers: dict[str, str], body: bytes) -> CloudEvent:
    return from_http_event(HTTPMessage(headers, body))


def billing(url: str, **named: Any) -> Any:
    return Remote.cloudevents("billing", "Bills", url, **named)


def say(answered: Any, **named: Any) -> str:
    """What the person gets when the receiver answers so."""

    async def scenario() -> str:
        async with Service(lambda request, body: answered) as service:
            return await answer(billing(service.url, **named))

    return asyncio.run(scenario())


# --- what is sent ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_the_receiver_reads_the_turn_with_the_sdk(mode: Any) -> None:
    async def scenario() -> None:
        async with Service(lambda *_: sent(to_binary_event(event({"text": "ok"})))) as service:
            agent = billing(service.url, mode=mode)
            said = await answer(
                agent, "Wie viel?", history=[("user", "hi"), ("agent", "hello")]
            )
            headers, body = service.heard[0]

        got = heard(headers, body)
        attributes, data = got.get_attributes(), got.get_data()
        assert said == "ok"
        assert headers["content-type"] == (
            "application/json" if mode == "binary" else "application/cloudevents+json"
        )
        assert attributes["type"] == "dev.angarium.turn.v1"
        assert attributes["source"] == "/angarium/agents/billing"
        assert attributes["partitionkey"] == data["conversation"] == attributes["subject"]
        assert int(attributes["sequence"]) == data["sequence"]
        assert attributes["dedupkey"] == attributes["id"]
        assert attributes["traceparent"].split("-")[0] == "00"
        assert data["text"] == "Wie viel?"
        assert data["history"] == [
            {"role": "user", "text": "hi"},
            {"role": "agent", "text": "hello"},
        ]
        assert data["person"]["name"] == "Ada"

    asyncio.run(scenario())


def test_the_same_request_has_the_same_dedupkey_and_another_one_has_another() -> None:
    async def scenario() -> list[str]:
        async with Service(lambda *_: sent(to_binary_event(event({"text": "ok"})))) as service:
            agent = billing(service.url)
            for key in ("k1", "k1", "k2"):
                await answer(agent, key=key)
            return [headers["ce-dedupkey"] for headers, _ in service.heard]

    first, same, other = asyncio.run(scenario())
    assert first == same != other


def test_a_key_is_sent_as_a_bearer_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_KEY", "s3cret")

    async def scenario() -> str:
        async with Service(lambda *_: sent(to_binary_event(event({"text": "ok"})))) as service:
            await answer(billing(service.url, api_key="BILLING_KEY"))
            return service.heard[0][0]["authorization"]

    assert asyncio.run(scenario()) == "Bearer s3cret"


def test_a_key_that_is_not_set_is_told_and_never_named() -> None:
    with pytest.raises(Misconfigured) as caught:
        say(Response(), api_key="sk-written-here-by-mistake")
    assert "sk-" not in str(caught.value)


# --- what is answered -----------------------------------------------------------------


@pytest.mark.parametrize(
    "answered",
    [
        sent(to_binary_event(event({"text": "42 €"}))),
        sent(to_structured_event(event({"text": "42 €"}))),
        sent(to_binary_event(event("42 €", "text/plain"))),
        sent(to_structured_event(event("42 €", "text/plain"))),
        sent(to_structured_event(event("42 €".encode(), "text/plain; charset=utf-8"))),
        sent(to_structured_event(event(b'{"text": "42 \xe2\x82\xac"}'))),
        sent(to_structured_event(event("42 €"))),
        sent(to_binary_event(event(b'"42 \xe2\x82\xac"'))),
        sent(to_binary_event(event({"text": "42 €"})), 202),
        Response('{"text": "42 \\u20ac"}', media_type="application/json"),
        Response("42 €", media_type="text/plain"),
        stream('data: {"delta": "42"}\n\n', 'data: {"text": " €"}\n\nevent: done\n\n'),
        stream("event: delta\ndata: 42\n\n", "event: text\ndata:  €\n\n", "data: [DONE]\n\n"),
        stream(
            "data: " + to_structured_event(event({"text": "42 "})).body.decode() + "\n\n",
            "data: " + to_structured_event(event("€", "text/plain")).body.decode() + "\n\n",
            ": comment\n\nevent: done\ndata: {}\n\n",
        ),
    ],
)
def test_an_answer_in_any_form_reaches_the_person(answered: Response) -> None:
    assert say(answered) == "42 €"


def test_an_answer_may_carry_files_progress_usage_and_a_hand_over() -> None:
    data = {
        "status": "looking",
        "text": "here",
        "files": [{"name": "a.txt", "content_type": "text/plain", "data_base64": "aGk="}],
        "usage": {"input_tokens": 3, "output_tokens": 4, "cost_usd": 0.01, "model": "m"},
    }

    async def scenario() -> None:
        async with Service(lambda *_: sent(to_binary_event(event(data)))) as service:
            agent = billing(service.url)
            async with opened(agent) as runner:
                assert await events(runner, agent) == [
                    Status("looking"),
                    Text("here"),
                    Media("a.txt", "text/plain", b"hi"),
                    Usage(3, 4, 1, 0.01, "m"),
                    Done(),
                ]

    asyncio.run(scenario())


def test_a_hand_over_is_taken() -> None:
    async def scenario() -> None:
        passed = event({"handoff": {"to": "human", "reason": "angry"}})
        async with Service(lambda *_: sent(to_binary_event(passed))) as service:
            agent = billing(service.url)
            async with opened(agent) as runner:
                found = runner.run("billing", "hi", (), ADA)
                assert await anext(found) == Handoff("human", "angry")
                await found.aclose()

    asyncio.run(scenario())


def test_a_question_is_put_and_its_answer_sent_with_the_same_turn() -> None:
    def ask_twice(request: Request, body: bytes) -> Response:
        answers = heard(dict(request.headers), body).get_data()["answers"]
        if not answers:
            return sent(to_binary_event(event({"question": "Which bill?"})))
        if len(answers) == 1:
            return stream(
                'data: {"delta": "Well. "}\n\n'
                'data: {"question": {"text": "Sure?", "options": ["yes", "no"]}}\n\n'
            )
        return sent(to_binary_event(event({"text": json.dumps(answers)})))

    async def scenario() -> None:
        async with Service(ask_twice) as service:
            agent, journal = billing(service.url), Journal()
            async with opened(agent) as runner:
                for question, options, reply in (
                    ("Which bill?", [], "May"),
                    ("Sure?", ["yes", "no"], "yes"),
                ):
                    found = await events(runner, agent, journal=journal, key="k")
                    asked = found[-1]
                    assert isinstance(asked, Asked)
                    assert (asked.question.text, asked.question.options) == (question, options)
                    asked.question.answer = reply
                last = await events(runner, agent, journal=journal, key="k")
            assert json.loads(last[0].text) == [  # type: ignore[union-attr]
                {"question": "Which bill?", "answer": "May"},
                {"question": "Sure?", "answer": "yes"},
            ]
            keys = [headers["ce-dedupkey"] for headers, _ in service.heard]
            assert len(set(keys)) == len(keys) == 3, "an answered question is another request"

    asyncio.run(scenario())


def test_a_remote_agent_that_asks_for_ever_is_stopped() -> None:
    async def scenario() -> None:
        asks = sent(to_binary_event(event({"question": "And now?"})))
        async with Service(lambda *_: asks) as service:
            agent, journal = billing(service.url), Journal()
            async with opened(agent) as runner:
                for _ in range(REMOTE_QUESTIONS_MAX):
                    found = await events(runner, agent, journal=journal)
                    assert isinstance(found[-1], Asked)
                    found[-1].question.answer = "that"
                with pytest.raises(BadReply):
                    await events(runner, agent, journal=journal)

    asyncio.run(scenario())


def test_a_bare_202_is_an_error_unless_a_sentence_for_it_is_given() -> None:
    with pytest.raises(NoReply):
        say(Response(status_code=202))
    with pytest.raises(NoReply):
        say(Response(status_code=200), accepted="Passed on.")
    assert say(Response(status_code=202), accepted="Passed on.") == "Passed on."


# --- what is wrong --------------------------------------------------------------------

DEEP = "[" * 100_000
BAD: list[tuple[str, Any, type[AngariumError]]] = [
    ("10 MB at once", Response(b"x" * 10_000_000, media_type="text/plain"), TooLarge),
    ("10 MB without a length", stream(*([b"data: x\n" * 1000] * 1250)), TooLarge),
    ("an event of 10 MB", stream("data: " + "x" * 10_000_000), TooLarge),
    ("no UTF-8", Response(b"\xff\xfe", media_type="text/plain"), BadReply),
    ("a stream without UTF-8", stream(b"data: \xff\n\n"), BadReply),
    ("no JSON", Response("{", media_type="application/json"), BadReply),
    ("deep JSON", Response(DEEP, media_type="application/json"), BadReply),
    ("JSON of another kind", Response("[1]", media_type="application/json"), BadReply),
    ("no field that is known", Response('{"a":1}', media_type="application/json"), BadReply),
    ("text that is none", Response('{"text":1}', media_type="application/json"), BadReply),
    ("files that are none", Response('{"files":1}', media_type="application/json"), BadReply),
    (
        "base64 that is none",
        Response(
            '{"files":[{"name":"a","data_base64":"%"}]}', media_type="application/json"
        ),
        BadReply,
    ),
    ("usage below zero", Response('{"usage":{"input_tokens":-1}}', 200,
                                  media_type="application/json"), BadReply),
    ("a question that is none", Response('{"question":1}', media_type="application/json"),
     BadReply),
    ("another type", Response(b"GIF89a", media_type="image/gif"), BadReply),
    ("no type", Response(b"hello"), BadReply),
    ("no id", Response("{}", 200, {"ce-specversion": "1.0", "content-type": "text/plain"}),
     BadReply),
    ("no event", Response('{"id":"1"}', media_type="application/cloudevents+json"), BadReply),
    ("an event that is a list", Response("[]", media_type="application/cloudevents+json"),
     BadReply),
    ("compressed", Response(b"x", headers={"content-encoding": "gzip"}), BadReply),
    ("a stream that stops", stream('data: {"text":"half"}\n\n'), ReplyCutOff),
    ("a stream that is cut", stream('data: {"text":"half"}\n\n', broken=True), ReplyCutOff),
    ("a redirect", RedirectResponse("http://127.0.0.1:9/", 307), BadReply),
    ("a refusal", Response(status_code=400), AgentFailed),
    ("a crash", Response(status_code=500), AgentFailed),
    ("a key refused", Response(status_code=401), AgentFailed),
    ("an error", Response('{"error":{"message":"secret"}}', media_type="application/json"),
     AgentFailed),
]  # fmt: skip


@pytest.mark.parametrize(("answered", "error"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_answer_has_a_name(answered: Response, error: type[AngariumError]) -> None:
    async def scenario() -> None:
        async with Service(lambda *_: answered) as service:
            with pytest.raises(AngariumError) as caught:
                await answer(billing(service.url))
            assert type(caught.value) is error
            assert "secret" not in str(caught.value)
            assert len(service.heard) == 1, "nothing that was begun is repeated"

    asyncio.run(scenario())


def test_a_service_that_is_busy_is_asked_again_and_then_answers() -> None:
    replies = [Response(status_code=503), Response(status_code=429), Response("ok")]

    def busy(request: Request, body: bytes) -> Response:
        found = replies.pop(0)
        found.headers["content-type"] = "text/plain"
        return found

    async def scenario() -> None:
        async with Service(busy) as service:
            assert await answer(billing(service.url)) == "ok"
            keys = {headers["ce-dedupkey"] for headers, _ in service.heard}
            assert (len(service.heard), len(keys)) == (3, 1)

    asyncio.run(scenario())


def test_who_asks_for_a_long_pause_is_left_alone_for_it() -> None:
    async def scenario() -> None:
        busy = Response(status_code=429, headers={"retry-after": "30"})
        async with Service(lambda *_: busy) as service:
            with pytest.raises(Unavailable) as caught:
                await answer(billing(service.url))
            assert caught.value.after_ms == 30_000
            assert len(service.heard) == 1

    asyncio.run(scenario())


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        asyncio.run(answer(billing("http://127.0.0.1:9/")))


def test_a_provider_that_is_down_is_broken_off_for_all_agents_on_it() -> None:
    async def scenario() -> None:
        async with Service(lambda *_: Response(status_code=503)) as service:
            first, other = (
                billing(service.url),
                Remote.cloudevents("b", "B", service.url + "/b"),
            )
            async with opened(first, other) as runner:
                for _ in range(3):
                    with pytest.raises(Unavailable):
                        await events(runner, first)
                called = len(service.heard)
                assert called == BREAKER_CALLS_MIN < 3 * AGENT_TRIES
                with pytest.raises(Unavailable):
                    await events(runner, other)
                assert len(service.heard) == called, "nobody called it for the other one"

    asyncio.run(scenario())


def test_a_provider_that_answers_more_often_than_not_is_called_on() -> None:
    replies = [200] * 10 + [503] * 9 + [200]

    def some(request: Request, body: bytes) -> Response:
        return Response("ok", replies.pop(0), media_type="text/plain")

    async def scenario() -> None:
        async with Service(some) as service:
            agent = billing(service.url)
            async with opened(agent) as runner:
                for _ in range(10):
                    await events(runner, agent)
                for _ in range(3):
                    with pytest.raises(Unavailable):
                        await events(runner, agent)
                assert await events(runner, agent) == [Text("ok"), Done()]

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["ftp://x", "x", "http://", "http://a:b@x/", "http://x:99999"])
def test_an_address_that_is_none_is_told_at_once(url: str) -> None:
    with pytest.raises(Misconfigured):
        billing(url)


def test_without_the_sdk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *rest: Any) -> Any:
        if name.startswith("cloudevents"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(Misconfigured, match=r"angarium\[cloudevents\]"):
        asyncio.run(answer(billing("http://127.0.0.1:9/")))
