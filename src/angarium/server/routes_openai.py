"""Agents behind OpenAI's API: any client of it can talk to them, `model` is the agent."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from angarium.agents.contract import Person, Status, Text
from angarium.agents.registry import Registry
from angarium.agents.requests import ANY_AGENT, API_CHANNEL, Answer, Requests, Wanted
from angarium.clock import Clock
from angarium.errors import AngariumError, Malformed, NotFound, Unavailable
from angarium.ids import UserId, uuid7
from angarium.limits import IDEMPOTENCY_KEY_CHARS_MAX
from angarium.server.guard import Guard, caller
from angarium.server.openai_shapes import (
    ChatRequest,
    ChatShapes,
    Json,
    Message,
    ResponseShapes,
    ResponsesRequest,
    error_shape,
    model_shape,
    read_messages,
    sse,
)
from angarium.telemetry.log import get_logger

_DONE = sse("[DONE]")
_BEAT = b": working\n\n"
_RESPONSE = re.compile(r"resp_[0-9a-f]{32}")
log = get_logger("angarium.openai")
Events = AsyncGenerator[Text | Status, None]


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape, those of the guard included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return refusal(Malformed(_told(error)))
            except HTTPException:
                return refusal(Malformed("the request cannot be read"))
            except AngariumError as error:
                return refusal(error)

        return handled


class OpenAIRoutes:
    """Doors to the agents of this node."""

    def __init__(
        self, *, requests: Requests, registry: Registry, clock: Clock, guard: Guard
    ) -> None:
        self._requests, self._registry = requests, registry
        self._clock, self._guard = clock, guard

    def router(self) -> APIRouter:
        router = self._guard.router("agents", agents=True, route_class=OpenAIRoute)
        router.add_api_route("/v1/models", self.models, methods=["GET"])
        router.add_api_route("/v1/models/{model}", self.model, methods=["GET"])
        for path, serve in (
            ("/v1/chat/completions", self.chat),
            ("/v1/responses", self.responses),
        ):
            router.add_api_route(path, serve, methods=["POST"], response_model=None)
        router.add_api_route("/v1/responses/{id}", self.forget, methods=["DELETE"])
        return router

    async def models(self) -> Json:
        """The agents that may be asked, and `angarium`, which lets the router decide."""
        return {"object": "list", "data": [*self._models().values()]}

    async def model(self, model: str) -> Json:
        """One agent."""
        found = self._models().get(model)
        if found is None:
            raise NotFound("there is no such agent; see GET /v1/models")
        return found

    def _models(self) -> dict[str, Json]:
        shapes = {ANY_AGENT: model_shape(ANY_AGENT, "The agent that fits what is said")}
        for name in self._requests.offered():
            agent = self._registry.find(name)
            if agent is not None:
                shapes[name] = model_shape(name, agent.description)
        return shapes

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """Ask an agent; the whole history comes along. Streams where `stream` is true."""
        said = read_messages(body.messages)
        wanted = Wanted(
            model=body.model,
            text=said.text,
            person=_person(request),
            history=said.history,
            files=said.files,
            key=_key(request),
        )
        answer = await self._requests.begin(wanted)
        id = f"chatcmpl-{self._new_id()}"
        shapes = ChatShapes(id, self._clock.now_ms() // 1000, answer)
        events = connected(request, self._requests.events(answer))
        if not body.stream:
            await gather(events)
            await self._requests.keep_question(answer)
            return JSONResponse(shapes.whole())
        usage = body.stream_options is not None and body.stream_options.include_usage
        first = await begun(events)
        return EventStream(self._chat_stream(first, answer, shapes, usage), events)

    async def _chat_stream(
        self, events: Events, answer: Answer, shapes: ChatShapes, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        yield sse(shapes.chunk({"role": "assistant", "content": ""}))
        try:
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Text(text):
                            yield sse(shapes.chunk({"content": text}))
                        case Status():
                            yield _BEAT
            await self._requests.keep_question(answer)
        except AngariumError as error:
            yield sse(error_shape(error))
            return
        yield sse(shapes.last())
        if usage:
            yield sse(shapes.usage_chunk())
        yield _DONE

    async def responses(self, request: Request, body: ResponsesRequest) -> Response:
        """Ask an agent, going on from `previous_response_id`. Streams where `stream` is true.
        The answer is kept for a day, sealed, unless `store` is false."""
        messages = [Message(content=body.input)] if isinstance(body.input, str) else body.input
        said = read_messages(messages)
        follows = body.previous_response_id or ""
        if follows and not _RESPONSE.fullmatch(follows):
            raise NotFound("there is no such response")
        wanted = Wanted(
            model=body.model,
            text=said.text,
            person=_person(request),
            history=said.history,
            files=said.files,
            follows=follows,
            key=_key(request),
        )
        answer = await self._requests.begin(wanted)
        id = f"resp_{self._new_id()}"
        shapes = ResponseShapes(id, self._clock.now_ms() // 1000, answer, body)
        events = connected(request, self._requests.events(answer))
        keeps = "" if body.store is False else id
        if not body.stream:
            await gather(events)
            await self._keep(answer, keeps)
            return JSONResponse(shapes.whole())
        first = await begun(events)
        return EventStream(self._response_stream(first, answer, shapes, keeps), events)

    async def _response_stream(
        self, events: Events, answer: Answer, shapes: ResponseShapes, keeps: str
    ) -> AsyncGenerator[bytes, None]:
        for piece in shapes.begin():
            yield piece
        try:
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Text(text):
                            yield shapes.delta(text)
                        case Status():
                            yield _BEAT
            await self._keep(answer, keeps)
        except AngariumError as error:
            yield shapes.failed(error)
            return
        for piece in shapes.end():
            yield piece

    async def _keep(self, answer: Answer, name: str) -> None:
        if name:
            await self._requests.keep(answer, name)

    async def forget(self, request: Request, id: str) -> Json:
        """Drop what was kept of a response."""
        if not _RESPONSE.fullmatch(id):
            raise NotFound("there is no such response")
        await self._requests.forget(caller(request).user, id)
        return {"id": id, "object": "response", "deleted": True}

    def _new_id(self) -> str:
        return uuid7(self._clock.now_ms()).replace("-", "")


def refusal(error: AngariumError) -> JSONResponse:
    """An error, with Retry-After when waiting helps."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, -(-error.after_ms // 1000)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_shape(error), error.http_status, headers)


def _told(error: RequestValidationError) -> str:
    """Fields and rules; never the values. Names deep inside come from the caller: left out."""
    problems = [
        ".".join(str(step) for step in problem["loc"][1:2]) + f": {problem['type']}"
        for problem in error.errors()[:5]
    ]
    return "; ".join(dict.fromkeys(problems)) or "the request does not follow the API"


def _person(request: Request) -> Person:
    user: UserId = caller(request).user
    return Person(user, user[1:].partition(":")[0], API_CHANNEL)


def _key(request: Request) -> str:
    """Raises Malformed for an idempotency key that is too long."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > IDEMPOTENCY_KEY_CHARS_MAX:
        raise Malformed(f"Idempotency-Key has at most {IDEMPOTENCY_KEY_CHARS_MAX} characters")
    return key


class EventStream(Response):
    """Streams `body`, and ends the agent's `events` however the stream has ended.

    Not Starlette's: that one cancels what still has to be closed, again and again.
    """

    def __init__(self, body: AsyncGenerator[bytes, None], events: Events) -> None:
        super().__init__(media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._body, self._events = body, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            async for piece in self._body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            # Where it never began, nobody else closes them.
            await self._body.aclose()
            await self._events.aclose()


async def gather(events: Events) -> None:
    """Let the answer complete."""
    async with aclosing(events):
        async for _event in events:
            pass


async def begun(events: Events) -> Events:
    """The same events, once the first is there: what fails before it has a status code."""
    try:
        first = await anext(events, None)
    except BaseException:
        await events.aclose()
        raise
    return _rest(first, events)


async def _rest(first: Text | Status | None, events: Events) -> Events:
    async with aclosing(events):
        if first is not None:
            yield first
        async for event in events:
            yield event


async def connected(request: Request, events: Events) -> Events:
    """The events while the client is there; when it goes, the agent is stopped."""
    gone = asyncio.ensure_future(_wait_gone(request))
    following: asyncio.Future[Any] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(events, None))
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():  # Also while the agent talks without a pause.
                log.info("request.left")
                raise Unavailable("the client has gone")
            event = following.result()
            if event is None:
                return
            yield event
    finally:
        for waiting in (gone, following):
            if waiting is not None and not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()


async def _wait_gone(request: Request) -> None:
    """Until the client has disconnected; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
