"""Agents that take CloudEvents over HTTP and answer with one, or with a stream."""

import base64
import binascii
import hashlib
import json
import secrets
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2

from angarium.agents.contract import (
    AgentEvent,
    Done,
    Handoff,
    Host,
    Media,
    Status,
    Terms,
    Text,
    Turn,
    Usage,
)
from angarium.agents.kinds.caller import (
    Caller,
    Secret,
    decode,
    drain,
    media_type,
    parse_json,
    read_body,
    read_stream,
    secret_of,
)
from angarium.agents.kinds.sse import SseEvent, SseReader
from angarium.clock import Clock, SystemClock
from angarium.errors import (
    AgentFailed,
    BadReply,
    Misconfigured,
    NoReply,
    ReplyCutOff,
    Unavailable,
)
from angarium.limits import REMOTE_FILES_MAX, REMOTE_QUESTIONS_MAX

Mode = Literal["binary", "structured"]
TURN_TYPE = "dev.angarium.turn.v1"
STRUCTURED = "application/cloudevents+json"
ACCEPTED = f"text/event-stream, {STRUCTURED}, application/json, text/plain"
_NAMESPACE = uuid.UUID("0b1f3f52-2f2a-5f0c-8f7c-4f8f6f2d9a11")
_KEPT = "asked"


class CloudEventsAgent:
    """Posts each turn as an event to one URL.

    `mode` is how it is sent; answers are taken in any. `accepted` is what the person is told
    where the answer is a bare 202: without it that is an error, nobody would ever answer.
    """

    def __init__(
        self,
        name: str,
        description: str,
        terms: Terms,
        *,
        url: str,
        mode: Mode = "binary",
        api_key: Secret | None = None,
        accepted: str = "",
        clock: Clock | None = None,
    ) -> None:
        """Raises Misconfigured for a URL or a mode that is none."""
        if mode not in ("binary", "structured"):
            raise Misconfigured(f"agent {name!r}: mode is `binary` or `structured`")
        self.name, self.description, self.terms = name, description, terms
        self._mode, self._api_key, self._accepted = mode, api_key, accepted
        self._clock = clock or SystemClock()
        silence_s = max(terms.first_event_s, terms.quiet_s)
        self._caller = Caller(url, silence_s=silence_s, clock=self._clock)

    async def open(self, host: Host) -> None:
        """Raises Misconfigured without the SDK, or where the key is not set."""
        self._caller.open(host)
        sdk()
        secret_of(self._api_key)

    async def close(self) -> None:
        await self._caller.close()

    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Send the turn and give what comes back.

        Raises what `Caller.post` raises, AgentFailed or Unavailable where the answer says so,
        BadReply, NoReply, ReplyCutOff and TooLarge.
        """
        asked = _asked_before(turn)
        answers = [
            {"question": one["text"], "answer": await _ask(turn, one, number)}
            for number, one in enumerate(asked)
        ]
        headers, body = self._event(turn, answers)
        question: dict[str, Any] | None = None
        async with (
            self._caller.post(body, headers) as response,
            aclosing(self._said(response)) as answer,
        ):
            async for said in answer:
                for event in events_of(said):
                    yield event
                question = _question_in(said)
                if question is not None:
                    break
        if question is not None:
            if len(asked) >= REMOTE_QUESTIONS_MAX:
                raise BadReply(f"a remote agent asks at most {REMOTE_QUESTIONS_MAX} questions")
            # Kept first: the next attempt begins here again and must know what was asked.
            await turn.tools.keep(_KEPT, json.dumps([*asked, question]).encode())
            await _ask(turn, question, len(asked))
        yield Done()

    def _event(self, turn: Turn, answers: list[dict[str, str]]) -> tuple[dict[str, str], bytes]:
        """The turn as headers and body. The same turn has the same id and dedupkey."""
        http, event_class = sdk()
        place = f"{turn.conversation}/{turn.sequence}/{self.name}/{len(answers)}"
        id = str(uuid.uuid5(_NAMESPACE, place))
        trace = hashlib.sha256(f"{turn.conversation}/{turn.sequence}".encode()).hexdigest()
        attributes = {
            "id": id,
            "source": f"/angarium/agents/{self.name}",
            "type": TURN_TYPE,
            "subject": turn.conversation,
            "time": datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC),
            # Without it the SDK sends no content type at all.
            "datacontenttype": "application/json",
            "partitionkey": turn.conversation,
            "sequence": f"{turn.sequence:020d}",  # The extension orders as text.
            "traceparent": f"00-{trace[:32]}-{secrets.token_hex(8)}-01",
            "dedupkey": id,
        }
        event = event_class(attributes, _data_of(turn, answers))
        write = http.to_binary_event if self._mode == "binary" else http.to_structured_event
        message = write(event)
        headers = {name.lower(): value for name, value in message.headers.items()}
        headers["accept"] = ACCEPTED
        if secret := secret_of(self._api_key):
            headers["authorization"] = f"Bearer {secret}"
        return headers, message.body

    async def _said(self, response: httpx2.Response) -> AsyncGenerator[Any, None]:
        """What the answer says: text, or objects with the fields that `events_of` knows."""
        kind = media_type(response)
        if kind == "text/event-stream":
            async for event in _stream(read_stream(response)):
                yield _data_in_stream(event)
            return
        body = await read_body(response)
        if not body and not any(name.startswith("ce-") for name in response.headers):
            if response.status_code == 202 and self._accepted:
                yield self._accepted
                return
            raise NoReply(f"the remote agent answers {response.status_code} and no event")
        yield _data_of_answer(kind, dict(response.headers), body)


def sdk() -> tuple[Any, Any]:
    """The HTTP binding and the event class. Raises Misconfigured without the SDK."""
    try:
        from cloudevents.core.bindings import http
        from cloudevents.core.v1.event import CloudEvent
    except ImportError:
        raise Misconfigured(
            "CloudEvents need one more package; install it with"
            " `pip install 'angarium[cloudevents]'`"
        ) from None
    return http, CloudEvent


def events_of(said: Any) -> list[AgentEvent]:
    """An answer's data as events: text as it is, or an object with any of `text`, `delta`,
    `status`, `files`, `usage`, `handoff`, `question`.

    Raises BadReply for anything else, AgentFailed or Unavailable for an `error`.
    """
    if isinstance(said, str):
        return [Text(said)]
    if not isinstance(said, dict):
        raise BadReply("the data of an answer is text or an object")
    if said.get("error"):
        raise _error_of(said["error"])
    found: list[AgentEvent] = []
    known = False
    for name, make in _FIELDS.items():
        if said.get(name) is not None:
            known = True
            try:
                found += make(said[name])
            except (TypeError, ValueError, KeyError, AttributeError):
                raise BadReply(f"`{name}` of an answer has another form") from None
    if not known and "question" not in said:
        raise BadReply("an answer has a `text`, or another field that is known")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _files(value: Any) -> list[AgentEvent]:
    if not isinstance(value, list) or len(value) > REMOTE_FILES_MAX:
        raise ValueError
    return [
        Media(
            _text(file["name"])[:200],
            _text(file.get("content_type", "application/octet-stream"))[:100],
            base64.b64decode(_text(file["data_base64"]), validate=True),
        )
        for file in value
    ]


def _usage(value: Any) -> list[AgentEvent]:
    tokens = [int(value.get(name, 0)) for name in ("input_tokens", "output_tokens")]
    cost_usd = float(value.get("cost_usd", 0.0))
    if min(tokens) < 0 or not 0.0 <= cost_usd < 1e6:
        raise ValueError
    return [Usage(tokens[0], tokens[1], 1, cost_usd, str(value.get("model", ""))[:100])]


def _handoff(value: Any) -> list[AgentEvent]:
    return [Handoff(_text(value["to"]), _text(value.get("reason", ""))[:500])]


_FIELDS: Mapping[str, Any] = {
    "status": lambda value: [Status(_text(value))],
    "delta": lambda value: [Text(_text(value))],
    "text": lambda value: [Text(_text(value))],
    "files": _files,
    "usage": _usage,
    "handoff": _handoff,
}


def _error_of(error: Any) -> Exception:
    """What an answer says has gone wrong. Its words stay where they are."""
    after_ms = error.get("after_ms") if isinstance(error, dict) else None
    if isinstance(after_ms, int) and 0 <= after_ms <= 3_600_000:
        return Unavailable("the remote agent asks to come again later", after_ms)
    return AgentFailed("the remote agent answers with an error")


def _question_in(said: Any) -> dict[str, Any] | None:
    """The question of an answer, checked. Raises BadReply."""
    asked = said.get("question") if isinstance(said, dict) else None
    if asked is None:
        return None
    if isinstance(asked, str):
        asked = {"text": asked}
    options = asked.get("options", []) if isinstance(asked, dict) else None
    if (
        not isinstance(options, list)
        or not all(isinstance(option, str) for option in options)
        or not isinstance(asked.get("text"), str)
    ):
        raise BadReply("`question` of an answer is text, or `text` with `options`")
    return {"text": asked["text"], "options": options}


def _asked_before(turn: Turn) -> list[dict[str, Any]]:
    kept = turn.tools.kept(_KEPT)
    asked: list[dict[str, Any]] = json.loads(kept) if kept else []
    return asked


async def _ask(turn: Turn, question: dict[str, Any], number: int) -> str:
    return await turn.ask(question["text"], question["options"], f"remote{number}")


def _data_of(turn: Turn, answers: list[dict[str, str]]) -> dict[str, Any]:
    person = turn.person
    return {
        "conversation": turn.conversation,
        "sequence": turn.sequence,
        "agent": turn.agent,
        "text": turn.text,
        "person": {
            "user": person.user,
            "name": person.name,
            "channel": person.channel,
            "language": person.language,
        },
        "history": [{"role": role, "text": text} for role, text in turn.history],
        "files": [
            {"name": file.name, "content_type": file.content_type, "size": file.size}
            for file in turn.attachments
        ],
        "answers": answers,
    }


async def _stream(body: AsyncIterator[bytes]) -> AsyncIterator[SseEvent]:
    """The events before the end, which is `event: done` or `[DONE]`. Raises ReplyCutOff."""
    reader = SseReader()
    async for piece in body:
        for event in reader.feed(piece):
            if event.name == "done" or event.data.strip() == "[DONE]":
                await drain(body)
                return
            if event.data or event.name == "error":
                yield event
    raise ReplyCutOff("the stream ended without `event: done`")


def _data_in_stream(event: SseEvent) -> Any:
    """A whole CloudEvent, an object, or plain text where the event's name says so."""
    if event.name in ("text", "delta"):
        return event.data
    if event.name == "error":
        return {"error": {"message": ""}}
    said = parse_json(event.data)
    if isinstance(said, dict) and "specversion" in said:
        return _open(said)
    return said


def _data_of_answer(kind: str, headers: dict[str, str], body: bytes) -> Any:
    """The data of an answer in one piece: structured, binary, or bare JSON or text."""
    text = decode(body)
    if kind == STRUCTURED:
        return _open(parse_json(text))
    http, _ = sdk()
    if any(name.lower().startswith("ce-") for name in headers):
        try:
            http.from_binary_event(http.HTTPMessage(headers, b""))
        except Exception:
            raise BadReply("the headers of an answer are no CloudEvent") from None
    if kind.endswith("json"):
        return parse_json(text)
    if kind.startswith("text/"):
        return text
    raise BadReply("an answer is a CloudEvent, JSON or text")


def _open(event: Any) -> Any:
    """The data of a structured event, which is looked at by the SDK. Raises BadReply."""
    http, _ = sdk()
    try:
        message = http.HTTPMessage({"content-type": STRUCTURED}, json.dumps(event).encode())
        data = http.from_structured_event(message).get_data()
        if isinstance(data, bytes | bytearray):
            data = decode(bytes(data))
    except (BadReply, binascii.Error):
        raise
    except Exception:
        raise BadReply("the answer is not a CloudEvent") from None
    if isinstance(data, str) and str(event.get("datacontenttype", "")).endswith("json"):
        return data if "data" in event else parse_json(data)
    return data
