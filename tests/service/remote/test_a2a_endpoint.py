"""Others call our agents with the A2A SDK: every person has their own tasks, and keeps them."""

import asyncio
import sys
import uuid

import httpx
import pytest
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskState,
)
from a2a.utils.errors import A2AError, TaskNotFoundError
from pydantic import SecretStr

from angarium.agents.agent import Agent, skill
from angarium.agents.contract import Media, Status
from angarium.agents.direct import DirectRunner
from angarium.agents.kinds.a2a import A2AAgent
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.limits import A2A_DEAD_AFTER_S, A2A_TASK_KEPT_S, A2A_TASKS_PER_PERSON_MAX
from angarium.server.a2a_kept import sweep
from angarium.server.a2a_tasks import DIED
from angarium.server.api import make_app
from angarium.server.auth import Tokens
from angarium.server.guard import Guard
from angarium.server.health import Health
from angarium.server.http import HttpServer, free_port
from angarium.server.routes_a2a import A2ARoutes, a2a_is_installed
from angarium.telemetry.metrics import Metrics
from angarium.testing.agents import AgentWorld, in_memory
from angarium.testing.fakes import FixedKeySealer

pytestmark = pytest.mark.slow
SECRET = b"0123456789abcdef0123456789abcdef"
COMPLETED = TaskState.TASK_STATE_COMPLETED
WAITING = TaskState.TASK_STATE_INPUT_REQUIRED


class Shop:
    """An agent of ours, and what its tests hold in their hands."""

    def __init__(self):
        self.go_on, self.working = asyncio.Event(), asyncio.Event()
        self.histories, self.files, self.stopped = [], [], 0
        self.agent = Agent(
            "shop", "Sells things", skills=[skill("buy", "i want a hat", description="Sells")]
        )
        self.agent.on_turn(self.answer)

    async def answer(self, turn):
        self.histories.append(turn.history)
        word = turn.text.split(" ")[0]
        if word == "ask":
            size = await turn.ask("Which size?", ["small", "large"])
            colour = await turn.ask("Which colour?")
            yield f"{size} and {colour}"
        elif word == "slow":
            yield "one "
            self.working.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.stopped += 1
                raise
            yield "two"
        elif word == "fail":
            raise ValueError("secret of the shop")
        elif word == "file":
            self.files += [await each.read() for each in turn.attachments]
            yield Status("looking")
            yield Media("hat.png", "image/png", b"\x89PNG")
        else:
            yield "you said "
            yield turn.text


class Served:
    """The routes on a real server over a store; `restart` is another process over the same."""

    def __init__(self, store, shop):
        self.store, self.shop, self.clock = store, shop, ManualClock()
        self.tokens = Tokens(SECRET, self.clock)
        self.port = free_port("127.0.0.1")
        self._clients = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        registry, ward = Registry([self.shop.agent]), Ward(self.clock)
        self.routes = A2ARoutes(
            registry=registry,
            runner=DirectRunner(registry, ward, self.clock),
            vault=self.store.vault,
            sealer=FixedKeySealer(),
            clock=self.clock,
            guard=Guard(self.tokens),
            base_url=self.url,
            version="1",
        )
        app = make_app(
            version="0", health=Health({}), metrics=Metrics(), routers=self.routes.routers()
        )
        self._server = HttpServer(app, "127.0.0.1", self.port)
        await self._server.start()

    async def stop(self):
        for http in self._clients:
            await http.aclose()
        self._clients = []
        await self.routes.close()
        await self._server.stop()

    def token(self, user="@ada:angarium"):
        return self.tokens.mint(user, 3600, ["agents"])

    async def client(self, user="@ada:angarium", binding="JSONRPC", version="1.0"):
        http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {self.token(user)}"}, timeout=30, trust_env=False
        )
        self._clients.append(http)
        card = await A2ACardResolver(http, f"{self.url}/agents/shop").get_agent_card()
        wanted = [
            one
            for one in card.supported_interfaces
            if (one.protocol_binding, one.protocol_version) == (binding, version)
        ]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(wanted)
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding])
        return ClientFactory(config).create(card)


def served(scenario):
    async def run():
        opened = await in_memory(ManualClock())
        shop = Shop()
        door = Served(opened.store, shop)
        await door.start()
        try:
            async with asyncio.timeout(60):
                await scenario(door, shop)
        finally:
            await door.stop()
            await opened.close()

    asyncio.run(run())


def request(text, task="", context="", parts=()):
    message = Message(
        message_id=uuid.uuid4().hex,
        role=Role.ROLE_USER,
        parts=[Part(text=text), *parts],
        task_id=task,
        context_id=context,
    )
    return SendMessageRequest(message=message)


async def send(client, text, task="", context="", parts=()):
    """What was said, the last state, the task and its context."""
    said, state, words = "", None, ""
    async for response in client.send_message(request(text, task, context, parts)):
        kind = response.WhichOneof("payload")
        told = getattr(response, kind)
        task = told.id if kind == "task" else told.task_id
        context = told.context_id
        if kind == "artifact_update":
            said += "".join(part.text for part in told.artifact.parts)
        else:
            state = told.status.state
            words = "".join(part.text for part in told.status.message.parts)
    return said, state, words, task, context


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("binding", "version"), [("JSONRPC", "1.0"), ("HTTP+JSON", "1.0"), ("JSONRPC", "0.3")]
)
def test_an_agent_answers_in_a_stream_whatever_the_caller_speaks(binding, version):
    async def scenario(door, shop):
        client = await door.client(binding=binding, version=version)
        said, state, _, _, _ = await send(client, "hello")
        assert (said, state) == ("you said hello", COMPLETED)

    served(scenario)


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_a_question_is_answered_by_the_next_message_of_the_task(binding):
    async def scenario(door, shop):
        client = await door.client(binding=binding)
        _, state, words, task, context = await send(client, "ask me")
        assert (state, words) == (WAITING, "Which size?\n1. small\n2. large")
        _, state, words, _, _ = await send(client, "2", task, context)
        assert (state, words) == (WAITING, "Which colour?")
        said, state, _, _, _ = await send(client, "red", task, context)
        assert (said, state) == ("large and red", COMPLETED)

    served(scenario)


def test_a_context_is_a_conversation_and_another_persons_is_not():
    async def scenario(door, shop):
        ada, bob = await door.client(), await door.client("@bob:angarium")
        *_, context = await send(ada, "hello")
        await send(ada, "again", context=context)
        await send(bob, "me too", context=context)
        assert shop.histories == [
            (),
            (("user", "hello"), ("agent", "you said hello")),
            (),
        ]

    served(scenario)


def test_files_go_both_ways():
    async def scenario(door, shop):
        client = await door.client()
        sent = Part(raw=b"ours", filename="a.txt", media_type="text/plain")
        *_, task, _ = await send(client, "file", parts=[sent])
        assert shop.files == [b"ours"]
        found = await client.get_task(GetTaskRequest(id=task))
        [part] = found.artifacts[0].parts
        assert (part.filename, part.media_type, part.raw) == (
            "hat.png",
            "image/png",
            b"\x89PNG",
        )

    served(scenario)


def test_an_agent_that_fails_ends_its_task_in_our_words():
    async def scenario(door, shop):
        _, state, words, _, _ = await send(await door.client(), "fail")
        assert state == TaskState.TASK_STATE_FAILED
        assert words == "Sorry, something went wrong while answering."

    served(scenario)


def test_our_own_gateway_can_call_it():
    async def scenario(door, shop):
        remote = A2AAgent("remote", f"{door.url}/agents/shop", api_key=SecretStr(door.token()))
        async with AgentWorld([remote]) as world:
            assert await world.say("hello") == ["you said hello"]
            assert await world.say("ask me") == ["Which size?\n1. small\n2. large"]
            assert await world.say("1") == ["Which colour?"]
            assert await world.say("blue") == ["small and blue"]
        await remote.close()

    served(scenario)


# --- tasks that last ----------------------------------------------------------------------


def test_tasks_outlive_the_process_and_their_questions_are_answered_after_it():
    async def scenario(door, shop):
        client = await door.client()
        *_, done, _ = await send(client, "hello")
        *_, asking, context = await send(client, "ask me")
        await door.stop()
        await door.start()
        client = await door.client()
        found = await client.get_task(GetTaskRequest(id=done))
        assert found.status.state == COMPLETED
        assert "".join(part.text for part in found.artifacts[0].parts) == "you said hello"
        assert (await send(client, "1", asking, context))[2] == "Which colour?"

    served(scenario)


def test_a_task_that_ran_when_the_node_stopped_is_told_as_failed():
    async def scenario(door, shop):
        client = await door.client()
        sending = asyncio.create_task(send(client, "slow one"))
        await shop.working.wait()
        [task] = (await client.list_tasks(ListTasksRequest())).tasks
        assert task.status.state == TaskState.TASK_STATE_WORKING
        await door.routes.close()
        await asyncio.gather(sending, return_exceptions=True)
        await door.stop()
        await door.start()
        found = await (await door.client()).get_task(GetTaskRequest(id=task.id))
        assert found.status.state == TaskState.TASK_STATE_FAILED
        assert found.status.message.parts[0].text == DIED

    served(scenario)


def test_a_task_that_ran_when_the_process_died_is_told_as_failed_once_that_is_known():
    async def scenario(door, shop):
        client = await door.client()
        sending = asyncio.create_task(send(client, "slow one"))
        await shop.working.wait()
        [task] = (await client.list_tasks(ListTasksRequest())).tasks
        other = Served(door.store, shop)  # Another process; it cannot see into this one.
        other.clock = door.clock
        await other.start()
        asked = await other.client()
        found = await asked.get_task(GetTaskRequest(id=task.id))
        assert found.status.state == TaskState.TASK_STATE_WORKING
        door.clock.advance(A2A_DEAD_AFTER_S + 1)
        found = await asked.get_task(GetTaskRequest(id=task.id))
        assert found.status.state == TaskState.TASK_STATE_FAILED
        assert found.status.message.parts[0].text == DIED
        await other.stop()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    served(scenario)


def test_cancel_stops_the_agent():
    async def scenario(door, shop):
        client = await door.client()
        sending = asyncio.create_task(send(client, "slow one"))
        await shop.working.wait()
        [task] = (await client.list_tasks(ListTasksRequest())).tasks
        ended = await client.cancel_task(CancelTaskRequest(id=task.id))
        assert ended.status.state == TaskState.TASK_STATE_CANCELED
        await asyncio.gather(sending, return_exceptions=True)
        assert shop.stopped == 1
        found = await client.get_task(GetTaskRequest(id=task.id))
        assert found.status.state == TaskState.TASK_STATE_CANCELED

    served(scenario)


def test_a_caller_that_lost_its_stream_subscribes_again():
    async def scenario(door, shop):
        client = await door.client()
        sending = asyncio.create_task(send(client, "slow one"))
        await shop.working.wait()
        [task] = (await client.list_tasks(ListTasksRequest())).tasks
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        events = client.subscribe(SubscribeToTaskRequest(id=task.id))
        first = await anext(events)
        assert first.task.artifacts[0].parts[0].text == "one "
        shop.go_on.set()
        rest = [event async for event in events]
        assert rest[-1].status_update.status.state == COMPLETED
        assert shop.stopped == 0

    served(scenario)


def test_tasks_are_bounded_per_person_and_forgotten_in_time():
    async def scenario(door, shop):
        ada, bob = await door.client(), await door.client("@bob:angarium")
        *_, bobs, _ = await send(bob, "hello")
        *_, first, _ = await send(ada, "hello")
        for _ in range(A2A_TASKS_PER_PERSON_MAX):
            door.clock.advance(1)
            *_, last, _ = await send(ada, "hello")
        with pytest.raises(TaskNotFoundError):
            await ada.get_task(GetTaskRequest(id=first))
        assert (await bob.get_task(GetTaskRequest(id=bobs))).id == bobs
        door.clock.advance(A2A_TASK_KEPT_S)
        door.tokens = Tokens(SECRET, door.clock)
        ada = await door.client()
        with pytest.raises(TaskNotFoundError):
            await ada.get_task(GetTaskRequest(id=last))

    served(scenario)


def test_tasks_of_those_who_never_come_again_are_swept():
    async def scenario(door, shop):
        client = await door.client()
        await send(client, "hello")
        *_, asking, context = await send(client, "ask me")
        door.clock.advance(A2A_TASK_KEPT_S / 2)
        await door.stop()
        await door.start()
        client = await door.client()
        await send(client, "1", asking, context)
        assert await sweep(door.store.vault, door.clock) == 0
        door.clock.advance(A2A_TASK_KEPT_S / 2 + 3600)
        assert await sweep(door.store.vault, door.clock) == 1
        door.clock.advance(A2A_TASK_KEPT_S / 2)
        assert await sweep(door.store.vault, door.clock) == 1
        assert await door.store.vault.read("a2a-due") == []

    served(scenario)


# --- whose they are -----------------------------------------------------------------------


def test_nobody_sees_or_touches_another_persons_task():
    async def scenario(door, shop):
        ada, eve = await door.client(), await door.client("@eve:angarium")
        sending = asyncio.create_task(send(ada, "slow one"))
        await shop.working.wait()
        [task] = (await ada.list_tasks(ListTasksRequest())).tasks
        *_, asking, context = await send(ada, "ask me")
        assert len((await eve.list_tasks(ListTasksRequest())).tasks) == 0
        for call in (
            eve.get_task(GetTaskRequest(id=task.id)),
            eve.cancel_task(CancelTaskRequest(id=task.id)),
            anext(eve.subscribe(SubscribeToTaskRequest(id=task.id))),
            send(eve, "1", asking, context),
            send(eve, "1", task.id, task.context_id),
        ):
            with pytest.raises(A2AError):
                await call
        shop.go_on.set()
        assert (await sending)[:2] == ("one two", COMPLETED)
        assert (await send(ada, "1", asking, context))[2] == "Which colour?"

    served(scenario)


def test_what_is_kept_is_sealed():
    async def scenario(door, shop):
        await send(await door.client(), "my secret hat")
        kept = [record for scope in await scopes(door) for record in scope]
        assert kept
        assert not any(b"hat" in record.blob for record in kept)

    async def scopes(door):
        door_of_shop = door.routes._doors["shop"]
        scope = door_of_shop._tasks._scope("@ada:angarium")
        return [await door.store.vault.read(scope)]

    served(scenario)


def test_without_a_token_there_is_a_card_and_nothing_else():
    async def scenario(door, shop):
        async with httpx.AsyncClient(base_url=door.url, trust_env=False) as http:
            card = await http.get("/agents/shop/.well-known/agent-card.json")
            assert card.json()["skills"] == [
                {
                    "id": "buy",
                    "name": "buy",
                    "description": "Sells",
                    "tags": ["shop"],
                    "examples": ["i want a hat"],
                }
            ]
            again = await http.get(
                "/agents/shop/.well-known/agent-card.json",
                headers={"if-none-match": card.headers["etag"]},
            )
            assert again.status_code == 304
            assert (
                await http.get("/agents/nobody/.well-known/agent-card.json")
            ).status_code == 404
            for path in ("/agents/shop/a2a", "/agents/shop/a2a/rest/message:send"):
                assert (await http.post(path, json={})).status_code == 401

    served(scenario)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[" * 5000, b'{"jsonrpc": "2.0", "method": 7}', b"\xff\xfe"]
)
def test_a_request_that_is_none_is_refused_and_the_next_one_answered(body):
    async def scenario(door, shop):
        client = await door.client()
        async with httpx.AsyncClient(base_url=door.url, trust_env=False) as http:
            headers = {"authorization": f"Bearer {door.token()}"}
            answer = await http.post("/agents/shop/a2a", content=body, headers=headers)
            assert answer.status_code < 500
            assert "error" in answer.json()
        assert (await send(client, "hello"))[0] == "you said hello"

    served(scenario)


def test_without_the_extra_nothing_is_served_and_nothing_breaks(monkeypatch):
    assert a2a_is_installed()
    monkeypatch.setitem(sys.modules, "a2a", None)
    assert not a2a_is_installed()
