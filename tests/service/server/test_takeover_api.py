"""Operators over HTTP: who may, what is answered, what the audit log says."""

import asyncio

import httpx2

from angarium.agents.agent import Agent
from angarium.agents.contract import Usage
from angarium.ids import UserId
from angarium.model.conversation import Participant
from angarium.server.api import make_app
from angarium.server.audit import AuditTrail
from angarium.server.auth import Tokens
from angarium.server.guard import Guard
from angarium.server.health import Health
from angarium.server.routes_takeover import TakeoverRoutes
from angarium.telemetry.metrics import Metrics
from angarium.testing.agents import CONVERSATION, GATEWAY_USER, PERSON, AgentWorld

SECRET = b"0123456789abcdef0123456789abcdef"
EVE, MAX = "@eve:test", "@max:test"
PLACE = f"/v1/admin/conversations/{CONVERSATION}"


class Desk:
    """The doors over a world of agents."""

    def __init__(self, world):
        self.world = world
        self.tokens = Tokens(SECRET, world.clock)
        routes = TakeoverRoutes(
            operators=world.gateway.operators,
            spend=world.gateway.spend,
            conversations=world.store.conversations,
            gateway=GATEWAY_USER,
            trail=AuditTrail(audit=world.store.audit, clock=world.clock, secret=SECRET),
            guard=Guard(self.tokens),
        )
        app = make_app(
            version="0", health=Health({}), metrics=Metrics(), routers=[routes.router()]
        )
        transport = httpx2.ASGITransport(app=app)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://node")

    async def call(self, method, path, user=EVE, scopes=("admin",), headers=None, **options):
        token = self.tokens.mint(UserId(user), 60, scopes)
        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        answer = await self.http.request(method, path, headers=sent, **options)
        for _ in range(200):
            if not await self.world.gateway._controls.conversations():
                break
            await asyncio.sleep(0.01)
        await self.world.gateway.idle()
        return answer


def at_desk(scenario):
    agent = Agent("shop", "for tests")

    @agent.on_turn
    async def answer(turn):
        yield f"agent says {turn.text}"
        yield Usage(cost_usd=0.25)

    async def run():
        async with AgentWorld([agent]) as world, asyncio.timeout(20):
            people = [Participant(UserId(PERSON), "person"), Participant(GATEWAY_USER, "agent")]
            await world.store.conversations.create(CONVERSATION, people, 0)
            desk = Desk(world)
            try:
                await scenario(desk, world)
            finally:
                await desk.http.aclose()

    asyncio.run(run())


def test_an_operator_takes_over_replies_and_hands_back_over_http():
    async def scenario(desk, world):
        await world.say("my secret")
        taken = await desk.call("POST", f"{PLACE}/takeover", json={"name": "Eve"})
        listed = await desk.call("GET", "/v1/admin/takeovers")
        said = await desk.call("POST", f"{PLACE}/reply", json={"text": "Hello from Eve"})
        assert (taken.status_code, said.status_code) == (202, 202)
        [row] = listed.json()["takeovers"]
        assert (row["conversation"], row["human"], row["name"]) == (CONVERSATION, EVE, "Eve")
        assert "secret" not in listed.text
        assert world.relay.log[CONVERSATION][-1].body.text == "Hello from Eve"
        assert await world.say("really?") == []
        back = await desk.call("POST", f"{PLACE}/handback")
        assert back.status_code == 202
        assert await world.say("and now?") == ["agent says and now?"]

    at_desk(scenario)


def test_operators_see_what_was_spent():
    async def scenario(desk, world):
        await world.say("hello")
        answer = await desk.call("GET", "/v1/admin/spend")
        assert answer.json() == {"agents": {"shop": 0.25}, "people": {PERSON: 0.25}}
        wrong = await desk.call("GET", "/v1/admin/spend?day=yesterday")
        assert wrong.status_code == 400

    at_desk(scenario)


def test_only_operators_may():
    async def scenario(desk, world):
        for method, path in (
            ("GET", "/v1/admin/takeovers"),
            ("POST", f"{PLACE}/takeover"),
            ("POST", f"{PLACE}/reply"),
            ("POST", f"{PLACE}/handback"),
        ):
            answer = await desk.call(method, path, scopes=("user",), json={"text": "x"})
            assert answer.status_code == 403

    at_desk(scenario)


def test_a_conversation_without_agents_is_not_found_and_another_operators_is_a_conflict():
    async def scenario(desk, world):
        nowhere = "/v1/admin/conversations/01999999-0000-7000-8000-00000000ffff"
        missing = await desk.call("POST", f"{nowhere}/takeover", json={})
        assert missing.status_code == 404
        await desk.call("POST", f"{PLACE}/takeover", json={})
        taken = await desk.call("POST", f"{PLACE}/takeover", user=MAX, json={})
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")

    at_desk(scenario)


def test_every_command_is_in_the_audit_log_without_its_content():
    async def scenario(desk, world):
        await desk.call("POST", f"{PLACE}/takeover", json={"name": "Eve"})
        await desk.call("POST", f"{PLACE}/reply", json={"text": "a canary"})
        await desk.call("POST", f"{PLACE}/reply", user=MAX, json={"text": "a canary"})
        entries = await world.store.audit.list(10)
        assert [(entry.principal, entry.action, entry.outcome) for entry in entries] == [
            (MAX, "conversation.reply", "conflict"),
            (EVE, "conversation.reply", "done"),
            (EVE, "conversation.takeover", "done"),
        ]
        assert "canary" not in repr(entries)

    at_desk(scenario)


def test_the_same_idempotency_key_is_the_same_reply():
    async def scenario(desk, world):
        await desk.call("POST", f"{PLACE}/takeover", json={})
        key = {"Idempotency-Key": "01999999-0000-7000-8000-0000000000aa"}
        for _ in range(2):
            body = {"text": "Once."}
            answer = await desk.call("POST", f"{PLACE}/reply", headers=key, json=body)
            assert answer.json() == {"id": key["Idempotency-Key"]}
        texts = [sent.body.text for sent in world.relay.log[CONVERSATION]]
        assert texts.count("Once.") == 1

    at_desk(scenario)
