"""One turn with a remote agent: its task is begun once, followed, resumed, and asked about."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import httpx
import msgspec
from a2a.client import A2AClientError, Client
from a2a.client.errors import A2AClientTimeoutError
from a2a.types import (
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import (
    A2AError,
    TaskNotFoundError,
    UnsupportedOperationError,
    VersionNotSupportedError,
)
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

from angarium.agents.contract import AgentEvent, Attachment, Done, Handoff, Text, Turn
from angarium.agents.kinds.a2a_pieces import FAILED, WAITING, Had, Pieces
from angarium.errors import AgentFailed, BadReply, Misconfigured, Unavailable
from angarium.limits import (
    A2A_FILES_BYTES_MAX,
    A2A_POLLS_MAX,
    A2A_RESUME_MAX_S,
    A2A_RESUME_MIN_S,
    A2A_RESUMES_MAX,
    REPLY_BYTES_MAX,
)

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
CONTEXT = "a2a_context"  # In the memory of the conversation: what the agent calls it.
_KEPT = "a2a"
_MESSAGES = uuid.UUID("6b1c5f0e-55a8-5a57-9e0c-0d6b7f0a9a41")
# What the SDK lets through of an answer that is none.
_GARBAGE = (ParseError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


class Round(msgspec.Struct, omit_defaults=True):
    """One message to the agent and how far it got. `question`: it ended in one, after `said`;
    `had`: what the task had given before this round."""

    task: str = ""
    context: str = ""
    sent: bool = False
    question: str = ""
    said: str = ""
    had: Had = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Round]).decode


class Exchange:
    """Runs one turn. Repeating it after a crash goes on with the task that was begun."""

    def __init__(
        self, client: Client, turn: Turn, *, streams: bool, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._client, self._turn, self._streams = client, turn, streams
        self._sleep = sleep
        kept = turn.tools.kept(_KEPT)
        self._rounds = _decode(kept) if kept else [Round()]
        self._pieces = Pieces()

    @property
    def open_task(self) -> str:
        """The task that is still at work, as far as known."""
        return "" if self._pieces.over else self._rounds[-1].task

    async def run(self) -> AsyncGenerator[AgentEvent, None]:
        """The events of the whole turn. Raises AgentFailed, BadReply, Misconfigured, TooLarge,
        Unavailable, and what `turn.ask` raises."""
        text, index = self._turn.text, 0
        while True:
            this = self._rounds[index]
            if not this.question:
                async with aclosing(self._talk(index, text)) as events:
                    async for event in events:
                        yield event
                if not this.question:
                    break
            elif this.said:
                yield Text(this.said)  # The gateway knows whether it went out already.
            text = await self._turn.ask(this.question, name=f"a2a {index}")
            index += 1
            if index == len(self._rounds):
                self._rounds.append(Round(this.task, this.context, had=this.had))
                this.said, this.had = "", {}
        yield Done()

    async def _talk(self, index: int, text: str) -> AsyncGenerator[AgentEvent, None]:
        """One round: from the message to its answer, or to the question it ends in."""
        this = self._rounds[index]
        pieces = Pieces(this.had)
        self._pieces = pieces
        said: list[str] = []
        async with aclosing(self._listen(this, index, text, pieces)) as responses:
            async for response in responses:
                await self._learn(this, response)
                # Even what says nothing new is a sign of life.
                for event in pieces.take(response) or [Text("")]:
                    if isinstance(event, Text):
                        said.append(event.text)
                    yield event
        if pieces.state == TaskState.TASK_STATE_REJECTED and index == 0 and not any(said):
            yield Handoff("", "rejected")  # Not its business: another may take it.
            return
        if pieces.state in FAILED:
            raise AgentFailed(f"@{self._turn.agent} did not take the task, or failed at it")
        for event in pieces.rest():
            if isinstance(event, Text):
                said.append(event.text)
            yield event
        if pieces.state in WAITING:
            this.said = "".join(said)[:REPLY_BYTES_MAX]
            this.question = pieces.question or f"@{self._turn.agent} needs more from you."
            this.had = pieces.had()
            await self._keep()

    async def _learn(self, this: Round, response: StreamResponse) -> None:
        """Keep the task as soon as it has a name: a later attempt follows it."""
        kind = response.WhichOneof("payload")
        if kind is None:
            raise BadReply("a remote agent sent an event of no known kind")
        told = getattr(response, kind)
        if told.context_id:
            this.context = self._turn.memory[CONTEXT] = told.context_id
        task = told.id if kind == "task" else told.task_id
        if kind != "message" and task and task != this.task:
            if this.task:
                raise BadReply("a remote agent answered about another task")
            this.task = task
            await self._keep()

    async def _keep(self) -> None:
        await self._turn.tools.keep(_KEPT, _encode(self._rounds))

    # --- listening ----------------------------------------------------------------------------

    async def _listen(
        self, this: Round, index: int, text: str, pieces: Pieces
    ) -> AsyncGenerator[StreamResponse, None]:
        """What the agent says until this round is over, through broken streams."""
        source = await self._begin(this, index, text, pieces)
        breaks, pause_s = 0, A2A_RESUME_MIN_S
        while True:
            trouble: Exception | None = None
            try:
                async with aclosing(source):
                    async for response in _facts(source):
                        breaks = breaks if _is_whole(response) else 0
                        yield response
                        # After a break only a snapshot tells that nothing is missing.
                        if pieces.over and (not pieces.snapshots_only or _is_whole(response)):
                            return
            except (Unavailable, BadReply) as error:
                trouble = error
            breaks += 1
            if not this.task or breaks > A2A_RESUMES_MAX:
                raise trouble or Unavailable("a remote agent stopped before its answer")
            pieces.snapshots_only = True
            await self._sleep(pause_s)
            pause_s = min(pause_s * 2, A2A_RESUME_MAX_S)
            source = self._resume(this.task)

    async def _begin(
        self, this: Round, index: int, text: str, pieces: Pieces
    ) -> AsyncGenerator[StreamResponse, None]:
        """Send the message, unless an earlier attempt did."""
        first = index == 0
        if (this.task and first) or (this.sent and await self._has(this.task, index)):
            pieces.snapshots_only = True
            return self._resume(this.task)
        if not first and not this.sent:
            this.sent = True
            await self._keep()
        parts = [Part(text=text)] if text else []
        parts += await _attached(self._turn.attachments) if first else []
        message = Message(
            message_id=self._message_id(index),
            role=Role.ROLE_USER,
            parts=parts,
            task_id=this.task,
            context_id=this.context or str(self._turn.memory.get(CONTEXT, "")),
        )
        return self._send(message)

    async def _has(self, task_id: str, index: int) -> bool:
        """Whether the task has heard this round's message."""
        task = await call(self._client.get_task(GetTaskRequest(id=task_id)))
        if task.status.state not in WAITING:
            return True
        return any(one.message_id == self._message_id(index) for one in task.history)

    def _message_id(self, index: int) -> str:
        # The same at each attempt: an agent that knows it does nothing twice. Another when
        # more messages have joined the turn.
        turn = self._turn
        name = f"{turn.conversation}/{turn.sequence}/{turn.agent}/{index}/{turn.text}"
        return str(uuid.uuid5(_MESSAGES, name))

    async def _send(self, message: Message) -> AsyncGenerator[StreamResponse, None]:
        request = SendMessageRequest(message=message)
        request.configuration.return_immediately = not self._streams
        sent = self._client.send_message(request)
        async for response in sent:
            yield response
            if not self._streams and response.HasField("task"):
                async for later in self._poll(response.task.id):
                    yield later

    async def _resume(self, task_id: str) -> AsyncGenerator[StreamResponse, None]:
        """The task as it is, then what comes, then the task as it is: streams lose events."""
        request = GetTaskRequest(id=task_id)
        yield StreamResponse(task=await self._client.get_task(request))
        if self._streams:
            try:
                async for response in self._client.subscribe(
                    SubscribeToTaskRequest(id=task_id)
                ):
                    yield response
            except (UnsupportedOperationError, TaskNotFoundError, NotImplementedError):
                pass  # Nothing to subscribe to: it ended just now, or never could be.
            else:
                yield StreamResponse(task=await self._client.get_task(request))
                return
        async for later in self._poll(task_id):
            yield later

    async def _poll(self, task_id: str) -> AsyncIterator[StreamResponse]:
        pause_s = A2A_RESUME_MIN_S
        for _ in range(A2A_POLLS_MAX):
            await self._sleep(pause_s)
            pause_s = min(pause_s * 2, A2A_RESUME_MAX_S)
            task: Task = await self._client.get_task(GetTaskRequest(id=task_id))
            yield StreamResponse(task=task)
        raise Unavailable("a remote agent is still at work; it is asked again later")


def _is_whole(response: StreamResponse) -> bool:
    """Whether it is the answer, or the task as it is."""
    return response.WhichOneof("payload") in {"task", "message"}


async def _attached(files: Sequence[Attachment]) -> list[Part]:
    """The person's files; what is beyond A2A_FILES_BYTES_MAX is named only."""
    parts, left = [], A2A_FILES_BYTES_MAX
    for file in files:
        if file.size > left:
            parts.append(Part(text=f"[{file.name}: too large to pass on]"))
            continue
        raw = await file.read()
        left -= len(raw)
        parts.append(Part(raw=raw, filename=file.name, media_type=file.content_type))
    return parts


# --- errors -----------------------------------------------------------------------------------


async def _facts(source: AsyncIterator[StreamResponse]) -> AsyncIterator[StreamResponse]:
    """The same, with what the SDK raises as errors of ours."""
    try:
        async for response in source:
            yield response
    except (A2AError, httpx.HTTPError, *_GARBAGE) as error:
        raise fact_of(error) from error


async def call(awaitable: Awaitable[T]) -> T:
    """Its result, with what the SDK raises as an error of ours."""
    try:
        return await awaitable
    except (A2AError, httpx.HTTPError, *_GARBAGE) as error:
        raise fact_of(error) from error


def fact_of(error: Exception) -> AgentFailed | BadReply | Misconfigured | Unavailable:
    """What an error of the SDK means. Its sentence, which the agent wrote, is left out."""
    cause = error.__cause__
    if isinstance(cause, httpx.HTTPStatusError):
        return _status_fact(cause.response)
    if isinstance(error, A2AClientTimeoutError | httpx.HTTPError):
        return Unavailable("a remote agent does not answer")
    if isinstance(cause, httpx.HTTPError):
        return Unavailable("a remote agent cannot be reached")
    if isinstance(error, TaskNotFoundError):
        return AgentFailed("a remote agent has forgotten the task")
    if isinstance(error, A2AError) and not isinstance(
        error, A2AClientError | VersionNotSupportedError
    ):
        return AgentFailed(f"a remote agent refuses: {type(error).__name__}")
    return BadReply("a remote agent's answer does not follow A2A")


def _status_fact(
    response: httpx.Response,
) -> AgentFailed | BadReply | Misconfigured | Unavailable:
    status = response.status_code
    if status in {401, 403}:
        return Misconfigured(f"a remote agent answers {status}; check its api_key")
    if status in {408, 425, 429, 500, 502, 503, 504}:
        after = response.headers.get("retry-after", "")
        after_s = int(after) if after.isascii() and after.isdigit() and len(after) < 5 else 1
        return Unavailable(f"a remote agent answers {status}", after_s * 1000)
    return BadReply(f"a remote agent answers {status}")
