"""What OpenAI's API looks like: requests that are read, answers that are written. No IO."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from angarium.agents.contract import Attachment, Media
from angarium.agents.requests import Answer
from angarium.errors import AngariumError, Malformed
from angarium.limits import API_FILES_MAX

Json = dict[str, Any]


# --- requests -----------------------------------------------------------------------------


class Part(BaseModel):
    """A part of a message. Files come inside, as `data:` URLs; nothing is fetched."""

    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | Json | None = None
    file: Json | None = None
    file_data: str = ""
    filename: str = ""


class Message(BaseModel):
    """One message. `system`, `developer` and `tool` are read over: an agent's instructions and
    tools are its developer's."""

    role: Literal["user", "assistant", "system", "developer", "tool", "function"] = "user"
    content: str | list[Part] | None = None
    type: str = "message"


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`. What is not named here is read over."""

    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=2000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None


class ResponsesRequest(BaseModel):
    """`POST /v1/responses`. What is not named here is read over."""

    model: str = Field(max_length=200)
    input: str | list[Message] = Field(max_length=1_000_000)
    stream: bool = False
    store: bool | None = None
    previous_response_id: str | None = Field(None, max_length=100)
    metadata: dict[str, str] | None = Field(None, max_length=16)


class Said(BaseModel):
    """The last message of a request, and what was said before it."""

    text: str
    files: tuple[Any, ...] = ()
    history: tuple[tuple[str, str], ...] = ()


def read_messages(messages: Sequence[Message]) -> Said:
    """Raises Malformed where the last message is not the person's."""
    spoken = [each for each in messages if each.role in ("user", "assistant")]
    if any(each.type != "message" for each in spoken):
        raise Malformed("input consists of messages")
    if not spoken or spoken[-1].role != "user":
        raise Malformed("the last message has the role user")
    roles = {"user": "user", "assistant": "agent"}
    history = [(roles[each.role], _text(each.content)) for each in spoken[:-1]]
    return Said(
        text=_text(spoken[-1].content),
        files=tuple(_files(spoken[-1].content)),
        history=tuple((role, text) for role, text in history if text),
    )


def _text(content: str | list[Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.text or part.refusal for part in content]
    return "\n".join(text for text in texts if text)


def _files(content: str | list[Part] | None) -> list[Attachment]:
    found: list[Attachment] = []
    for part in content if isinstance(content, list) else ():
        url, name = _file_in(part)
        if url is not None:
            found.append(_attachment(url, name or f"file-{len(found) + 1}"))
    if len(found) > API_FILES_MAX:
        raise Malformed(f"a message has at most {API_FILES_MAX} files")
    return found


def _file_in(part: Part) -> tuple[str | None, str]:
    """The `data:` URL of a part that is a file, and its name."""
    if part.type in ("image_url", "input_image"):
        image = part.image_url
        return str(image.get("url") if isinstance(image, dict) else image or ""), ""
    if part.type in ("file", "input_file"):
        file = part.file or {}
        data = part.file_data or str(file.get("file_data") or "")
        return data, (part.filename or str(file.get("filename") or ""))[:200]
    return None, ""


def _attachment(url: str, name: str) -> Attachment:
    head, _, encoded = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64"):
        raise Malformed("a file comes as data:TYPE;base64,...; nothing is fetched")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("a file is not base64") from None

    async def read() -> bytes:
        return data

    kind = head.removeprefix("data:").partition(";")[0][:100] or "application/octet-stream"
    return Attachment(name, kind, len(data), read)


# --- answers ------------------------------------------------------------------------------


def error_shape(error: AngariumError) -> Json:
    """An error as OpenAI's clients read it, with our code and what a program needs to act."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    status = error.http_status
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": str(error), "type": kind, "param": None, "code": error.code}
    return {"error": {**error.data(), **told}}


def model_shape(name: str, description: str) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "angarium",
        "description": description,
    }


def file_shapes(files: Sequence[Media]) -> list[Json]:
    """Files of an answer, an addition of ours."""
    return [
        {
            "name": file.name,
            "content_type": file.content_type,
            "data_base64": base64.b64encode(file.data).decode(),
        }
        for file in files
    ]


def sse(data: Json | str, name: str = "") -> bytes:
    """One event of a stream."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


class ChatShapes:
    """A chat completion, whole or in chunks."""

    def __init__(self, id: str, created_s: int, answer: Answer) -> None:
        self._id, self._created_s, self._answer = id, created_s, answer

    def whole(self) -> Json:
        message: Json = {"role": "assistant", "content": self._answer.said, "refusal": None}
        if self._answer.files:
            message["files"] = file_shapes(self._answer.files)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def last(self) -> Json:
        files = file_shapes(self._answer.files)
        return self.chunk({"files": files} if files else {}, "stop")

    def usage_chunk(self) -> Json:
        head = self._head("chat.completion.chunk")
        return {**head, "choices": [], "usage": self._usage()}

    def _head(self, kind: str) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created_s,
            "model": self._answer.agent,
        }

    def _usage(self) -> Json:
        given, made = self._answer.input_tokens, self._answer.output_tokens
        return {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
        }


class ResponseShapes:
    """A response of the Responses API, whole or as a stream of numbered events."""

    def __init__(
        self, id: str, created_s: int, answer: Answer, asked: ResponsesRequest
    ) -> None:
        self._id, self._created_s, self._answer, self._asked = id, created_s, answer, asked
        self._item = f"msg_{id.removeprefix('resp_')}"
        self._number = 0

    def whole(self, status: str = "completed", error: AngariumError | None = None) -> Json:
        answer, done = self._answer, status == "completed"
        given, made = answer.input_tokens, answer.output_tokens
        usage = {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + made,
        }
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "model": answer.agent,
            "output": [self._message("completed")] if done else [],
            "usage": usage if done else None,
            "error": {"code": error.code, "message": str(error)} if error else None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": self._asked.metadata or {},
            "parallel_tool_calls": False,
            "previous_response_id": self._asked.previous_response_id,
            "store": self._asked.store is not False,
            "temperature": None,
            "tool_choice": "none",
            "tools": [],
            "top_p": None,
        }

    def begin(self) -> list[bytes]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            self._event("response.created", response=self.whole("in_progress")),
            self._event("response.in_progress", response=self.whole("in_progress")),
            self._event(
                "response.output_item.added", output_index=0, item=self._message("in_progress")
            ),
            self._in_part("response.content_part.added", part=part),
        ]

    def delta(self, text: str) -> bytes:
        return self._in_part("response.output_text.delta", delta=text, logprobs=[])

    def end(self) -> list[bytes]:
        message = self._message("completed")
        said = self._answer.said
        return [
            self._in_part("response.output_text.done", text=said, logprobs=[]),
            self._in_part("response.content_part.done", part=message["content"][0]),
            self._event("response.output_item.done", output_index=0, item=message),
            self._event("response.completed", response=self.whole()),
        ]

    def failed(self, error: AngariumError) -> bytes:
        return self._event("response.failed", response=self.whole("failed", error))

    def _message(self, status: str) -> Json:
        text = {"type": "output_text", "text": self._answer.said, "annotations": []}
        message: Json = {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [text] if status == "completed" else [],
        }
        if status == "completed" and self._answer.files:
            message["files"] = file_shapes(self._answer.files)
        return message

    def _in_part(self, type: str, **fields: Any) -> bytes:
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        return self._event(type, **place, **fields)

    def _event(self, type: str, **fields: Any) -> bytes:
        event = {"type": type, "sequence_number": self._number, **fields}
        self._number += 1
        return sse(event, type)
