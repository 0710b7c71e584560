"""Agents behind an endpoint that speaks OpenAI's Chat Completions: models or whole agents."""

import hashlib
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from angarium.agents.contract import AgentEvent, Done, Host, Terms, Text, Turn, Usage
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
from angarium.agents.kinds.sse import SseReader
from angarium.errors import AgentFailed, BadReply, ReplyCutOff

_NAMESPACE = uuid.UUID("c7a9c1a4-65b7-5a0e-9c9e-3a1d2d6a5f02")
_FILTERED = "\n\n[The answer was withheld by a content filter.]"


@dataclass(frozen=True, slots=True)
class ChatModel:
    """Which model is asked, and how. `extra` goes into every request as it is (temperature,
    say); prices are US dollars for a million tokens, 0: not counted."""

    model: str
    prompt: str = ""
    extra: Mapping[str, Any] | None = None
    input_usd: float = 0.0
    output_usd: float = 0.0


class OpenAIAgent:
    """Sends the conversation to `{base_url}/chat/completions` and streams the answer."""

    def __init__(
        self,
        name: str,
        description: str,
        terms: Terms,
        *,
        base_url: str,
        chat: ChatModel,
        api_key: Secret | None = None,
    ) -> None:
        """Raises Misconfigured for a URL that is none."""
        self.name, self.description, self.terms = name, description, terms
        self._chat, self._api_key = chat, api_key
        url = f"{base_url.rstrip('/')}/chat/completions"
        silence_s = max(terms.first_event_s, terms.quiet_s)
        self._caller = Caller(url, silence_s=silence_s)

    async def open(self, host: Host) -> None:
        """Share the provider's breaker. Raises Misconfigured where the key is not set."""
        self._caller.open(host)
        secret_of(self._api_key)

    async def close(self) -> None:
        await self._caller.close()

    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Ask, and give the answer piece by piece.

        Raises what `Caller.post` raises, AgentFailed for an error within the stream, BadReply
        for what cannot be read, ReplyCutOff for a stream that stops, TooLarge.
        """
        body = json.dumps(self._request(turn)).encode()
        async with self._caller.post(body, self._headers(turn)) as response:
            if media_type(response) == "text/event-stream":
                chunks = _chunks(read_stream(response))
            else:
                chunks = _whole(decode(await read_body(response)))
            async with aclosing(chunks):
                async for chunk in chunks:
                    for event in self._events(chunk):
                        yield event
        yield Done()

    def _request(self, turn: Turn) -> dict[str, Any]:
        messages = (
            [{"role": "system", "content": self._chat.prompt}] if self._chat.prompt else []
        )
        roles = {"agent": "assistant", "assistant": "assistant"}
        messages += [
            {"role": roles.get(role, "user"), "content": text} for role, text in turn.history
        ]
        messages.append({"role": "user", "content": _with_files(turn)})
        # A name for the person that is stable for this service and means nothing elsewhere.
        person = hashlib.sha256(f"{self._caller.url}\0{turn.person.user}".encode()).hexdigest()
        return {
            "stream_options": {"include_usage": True},
            "user": person[:32],
            **(self._chat.extra or {}),
            "model": self._chat.model,
            "messages": messages,
            "stream": True,
        }

    def _headers(self, turn: Turn) -> dict[str, str]:
        place = f"{turn.conversation}/{turn.sequence}/{self.name}/{len(turn.history)}"
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            "idempotency-key": str(uuid.uuid5(_NAMESPACE, place)),
        }
        if secret := secret_of(self._api_key):
            headers["authorization"] = f"Bearer {secret}"
        return headers

    def _events(self, chunk: Any) -> list[AgentEvent]:
        """What one chunk, or a whole completion, says. Raises BadReply, AgentFailed."""
        if not isinstance(chunk, dict):
            raise BadReply("a chunk of a chat completion is an object")
        if chunk.get("error"):
            raise AgentFailed("the remote agent answers with an error")
        found: list[AgentEvent] = []
        choices = chunk.get("choices") or [{}]
        choice = choices[0] if isinstance(choices, list) else None
        said = _part(choice, "delta") or _part(choice, "message")
        text = said.get("content") or said.get("refusal")
        if isinstance(text, str):
            found.append(Text(text))
        elif text is not None and text != []:
            raise BadReply("the content of a chat completion is text")
        if _part_of(choice, "finish_reason") == "content_filter":
            found.append(Text(_FILTERED))
        if usage := _part(chunk, "usage"):
            found.append(self._usage(usage, str(chunk.get("model") or self._chat.model)))
        return found

    def _usage(self, usage: dict[str, Any], model: str) -> Usage:
        given, made = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        cost_usd = (given * self._chat.input_usd + made * self._chat.output_usd) / 1_000_000
        return Usage(given, made, 1, cost_usd, model[:100])


async def _chunks(body: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """The chunks of a stream up to its end. Raises ReplyCutOff where there is none."""
    reader, finished = SseReader(), False
    async for piece in body:
        for event in reader.feed(piece):
            if event.data.strip() == "[DONE]":
                await drain(body)
                return
            if event.name == "error":
                raise AgentFailed("the remote agent answers with an error")
            if not event.data:
                continue
            chunk = parse_json(event.data)
            finished = finished or _finishes(chunk)
            yield chunk
    if not finished:
        raise ReplyCutOff("the stream ended before the answer did")


async def _whole(body: str) -> AsyncGenerator[Any, None]:
    """A completion in one piece. Raises BadReply where there is no answer in it."""
    completion = parse_json(body)
    if isinstance(completion, dict) and not completion.get("error"):
        choices = completion.get("choices")
        if not (isinstance(choices, list) and choices and _part(choices[0], "message")):
            raise BadReply("a chat completion has a choice with a message")
    yield completion


def _finishes(chunk: Any) -> bool:
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and bool(first.get("finish_reason"))


def _part_of(value: Any, name: str) -> Any:
    """Raises BadReply for what is no object."""
    if not isinstance(value, dict):
        raise BadReply("a chat completion consists of objects")
    return value.get(name)


def _part(value: Any, name: str) -> dict[str, Any]:
    """An object inside an object, empty where there is none. Raises BadReply."""
    found = _part_of(value, name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadReply(f"{name} of a chat completion is an object")
    return found


def _count(usage: dict[str, Any], name: str) -> int:
    found = usage.get(name)
    return found if isinstance(found, int) and 0 <= found < 10**9 else 0


def _with_files(turn: Turn) -> str:
    """The text, with a line about each file: their content does not travel."""
    lines = [f"[file: {file.name}, {file.content_type}]" for file in turn.attachments]
    return "\n".join([turn.text, *lines])
