"""A remote agent, built with the A2A SDK on a real HTTP server, that behaves as it is told."""

import asyncio
import json

from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import (
    create_agent_card_routes,
    create_jsonrpc_routes,
    create_rest_routes,
)
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Message,
    Part,
    Role,
    Task,
    TaskState,
    TaskStatus,
)
from starlette.applications import Starlette

from angarium.clock import ManualClock
from angarium.server.http import HttpServer, free_port

BINDINGS = {"1.0": ("JSONRPC", "1.0"), "rest": ("HTTP+JSON", "1.0"), "0.3": ("JSONRPC", "0.3")}


class Behaviour(AgentExecutor):
    """Does what the first word of the message says."""

    def __init__(self):
        self.go_on = asyncio.Event()
        self.heard = []
        self.contexts = []
        self.cancelled = []

    async def execute(self, context, queue):
        text = context.get_user_input()
        self.heard.append(text)
        self.contexts.append(context.context_id)
        task = context.current_task
        if text.startswith("message"):
            await queue.enqueue_event(direct(context, f"direct {text}"))
            return
        if task is None:
            await queue.enqueue_event(
                Task(
                    id=context.task_id,
                    context_id=context.context_id,
                    status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED),
                    history=[context.message],
                )
            )
        updater = TaskUpdater(queue, context.task_id, context.context_id)
        await updater.start_work()
        word = "answer" if task is not None else text.split(" ")[0]
        await getattr(self, word, self.echo)(updater, text)

    async def cancel(self, context, queue):
        self.cancelled.append(context.task_id)
        await TaskUpdater(queue, context.task_id, context.context_id).cancel()

    async def echo(self, updater, text):
        words = text.split(" ")
        for index, word in enumerate(words):
            await updater.add_artifact(
                [Part(text=word + " ")],
                artifact_id="reply",
                append=index > 0,
                last_chunk=index == len(words) - 1,
            )
        await updater.complete()

    async def ask(self, updater, text):
        await updater.add_artifact([Part(text="Two orders. ")], artifact_id="found")
        await updater.requires_input(message_of(updater, "Which order?"))

    async def sign(self, updater, text):
        await updater.requires_auth(message_of(updater, "Log in at https://login.test"))

    async def answer(self, updater, text):
        if text == "again":
            await updater.requires_input(message_of(updater, "And which size?"))
            return
        await updater.add_artifact([Part(text=f"done: {text}")], artifact_id="outcome")
        await updater.complete()

    async def fail(self, updater, text):
        await updater.failed(message_of(updater, "secret of the peer"))

    async def reject(self, updater, text):
        await updater.reject(message_of(updater, "not my job"))

    async def crash(self, updater, text):
        raise RuntimeError("secret of the peer")

    async def slow(self, updater, text):
        await updater.add_artifact([Part(text="one ")], artifact_id="reply")
        await self.go_on.wait()
        await updater.add_artifact([Part(text="two")], artifact_id="reply", append=True)
        await updater.complete()

    async def words(self, updater, text):
        await updater.complete(message_of(updater, "only words"))

    async def twice(self, updater, text):
        """As some SDKs do: chunks, then the whole again, then the last one once more."""
        await updater.add_artifact([Part(text="a")], artifact_id="r")
        await updater.add_artifact([Part(text="b")], artifact_id="r", append=True)
        whole = [Part(text="ab")]
        await updater.add_artifact(whole, artifact_id="r", last_chunk=True)
        await updater.add_artifact([Part(text="b")], artifact_id="r", append=True)
        await updater.complete(message_of(updater, "ab"))

    async def file(self, updater, text):
        parts = [
            Part(raw=b"\x89PNG1", filename="cat.png", media_type="image/png"),
            Part(raw=b"2", filename="cat.png", media_type="image/png"),
            Part(url="https://files.test/a.pdf", filename="a.pdf"),
        ]
        await updater.add_artifact(parts, artifact_id="files")
        await updater.complete()

    async def huge(self, updater, text):
        for index in range(12):
            await updater.add_artifact(
                [Part(text="x" * 1_000_000)], artifact_id="r", append=index > 0
            )
        await updater.complete()


def direct(context, text):
    return Message(
        message_id=f"m{text}",
        role=Role.ROLE_AGENT,
        parts=[Part(text=text)],
        context_id=context.context_id,
    )


def message_of(updater, text):
    return updater.new_agent_message(parts=[Part(text=text)])


class Peer:
    """`async with Peer() as peer`: `url` is where its card lies.

    `cut_after`: after so many bytes-carrying pieces of a stream the connection breaks, once.
    """

    def __init__(self, *, speaks="1.0", streaming=True, sign=None, cut_after=0, card=None):
        self.behaviour = Behaviour()
        self.calls, self.card_requests, self.tokens = [], [], []
        self.cut_after = cut_after
        self.ward_clock = ManualClock()  # Of the breakers before this peer.
        port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{port}"
        self.card_answer = card and card(self.url)  # (status, headers, body), not the card.
        binding, version = BINDINGS[speaks]
        self.card = AgentCard(
            name="peer",
            description="A remote agent",
            version="1",
            capabilities=AgentCapabilities(streaming=streaming),
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            skills=[
                AgentSkill(
                    id="echo",
                    name="Echo",
                    description="Says it again",
                    tags=["x"],
                    examples=["say it again"],
                )
            ],
            supported_interfaces=[
                AgentInterface(
                    url=self.url + "/a2a", protocol_binding=binding, protocol_version=version
                )
            ],
        )
        if sign is not None:
            self.card = sign(self.card)
        self.handler = DefaultRequestHandler(
            agent_executor=self.behaviour,
            task_store=InMemoryTaskStore(),
            agent_card=self.card,
        )
        card_routes = create_agent_card_routes(self.card)
        routes = [
            *card_routes,
            *create_jsonrpc_routes(self.handler, "/a2a", enable_v0_3_compat=True),
            *create_rest_routes(self.handler, path_prefix="/a2a"),
        ]
        self._app = Starlette(routes=routes)
        self._server = HttpServer(self, "127.0.0.1", port)

    async def __aenter__(self):
        await self._server.start()
        return self

    async def __aexit__(self, *_):
        self.behaviour.go_on.set()
        await self.handler.aclose()
        await self._server.stop()

    async def __call__(self, scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["path"].endswith("agent-card.json"):
            self.card_requests.append(headers.get("if-none-match", ""))
            if self.card_answer is not None:
                await plainly(send, *self.card_answer)
                return
        self.tokens.append(headers.get("authorization", ""))
        body = await whole_body(receive)
        path = scope["path"].removeprefix("/a2a")
        self.calls.append(json.loads(body).get("method") if body and not path else path)
        heard = False

        async def again():
            nonlocal heard
            if heard:
                return await receive()
            heard = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, self._cutting(send))

    def _cutting(self, send):
        pieces = 0

        async def cut(message):
            nonlocal pieces
            if message["type"] == "http.response.body" and message.get("more_body"):
                pieces += 1
                if self.cut_after and pieces > self.cut_after:
                    self.cut_after = 0
                    raise ConnectionResetError("cut")
            await send(message)

        return cut


async def whole_body(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def plainly(send, status, headers, body):
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
