"""Real MCP servers, by stdio and by streamable HTTP, behind LLM agents."""

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastmcp")

from pydantic_ai import models

from angarium.agents.guard import TIRED
from angarium.agents.kinds.llm import LLM
from angarium.agents.llm.links import KEY_META, Links
from angarium.agents.mcp import MCP
from angarium.agents.toolbox import tool
from angarium.agents.turns import Patience
from angarium.agents.ward import Ward
from angarium.clock import ManualClock, SystemClock
from angarium.errors import Misconfigured, Unavailable
from angarium.limits import MCP_IDLE_S, TOOL_RESULT_BYTES_MAX
from angarium.testing.agents import AgentWorld
from angarium.testing.scripted import results, scripted

models.ALLOW_MODEL_REQUESTS = False
pytestmark = [pytest.mark.slow, pytest.mark.process]
SERVER = str(Path(__file__).with_name("tool_server.py"))
AT_ONCE = Patience(first_event_s=60, turn_s=60, retry_min_s=0, retry_max_s=0)


class Server:
    """A tool server by HTTP, and what its tools did."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, SERVER, str(self.port)], env={"TOOL_LOG": str(self.log)}
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the tool server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def done(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tools") / "log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def by_http(served):
    served.log.unlink(missing_ok=True)
    return served


def agent(*steps, servers, seen=None, **settings):
    model = scripted(*steps, seen=seen)
    return LLM("shop", "sells", model=model, tools=servers, **settings)


def in_world(scenario, llm, **settings):
    async def run():
        async with AgentWorld([llm], patience=AT_ONCE, **settings) as world:
            await scenario(world)
        await llm.close()

    asyncio.run(run())


async def at_once(_seconds):
    """A pause that takes no time."""


def told(tool):
    return lambda messages, _info: results(messages)[tool]


def test_a_tool_server_by_stdio_answers_and_is_given_the_key_of_the_call(tmp_path):
    log = tmp_path / "log"
    server = MCP([sys.executable, SERVER], env={"TOOL_LOG": str(log)})

    async def scenario(world):
        (answer,) = await world.say("refund it")
        assert "refund done" in answer

    def tell(messages, _info):
        result = results(messages)["refund"]
        assert result.startswith("<untrusted-")
        return result

    in_world(scenario, agent(("refund", {"order": "A1"}), tell, servers=[server]))
    (sent,) = [line for line in log.read_text().splitlines() if line.startswith("refund ")]
    assert len(sent.split(" ")[-1]) == 36


def test_a_tool_server_by_http_answers_turn_after_turn(by_http):
    server = MCP(by_http.url)
    llm = agent(("order_status", {"order": "A1"}), told("order_status"), servers=[server])

    async def scenario(world):
        for _ in range(3):
            (answer,) = await world.say("where is it")
            assert "A1 is on its way" in answer

    in_world(scenario, llm)


def test_a_lazy_servers_tools_are_hidden_until_the_model_searches(by_http):
    seen = []
    search = ("search_tools", {"queries": ["order status"]})
    steps = (search, ("order_status", {"order": "A1"}), told("order_status"))
    llm = agent(*steps, servers=[MCP(by_http.url, lazy=True)], seen=seen)

    async def scenario(world):
        await llm.open(Ward(SystemClock()))
        assert by_http.done() == []  # Not even asked for its tools.
        (answer,) = await world.say("where is it")
        assert "A1 is on its way" in answer

    in_world(scenario, llm)
    names = [{tool.name for tool in info.function_tools} for info in seen]
    assert "order_status" not in names[0]
    assert "order_status" in names[1]


def test_a_tool_that_matches_approve_waits_for_the_person(by_http):
    server = MCP(by_http.url, approve=["send_*"], only=["send_*", "order_*"])
    llm = agent(("send_fax", {"order": "A1"}), told("send_fax"), servers=[server])

    async def scenario(world):
        (question,) = await world.say("fax it")
        assert question.startswith('May I run send_fax with\n- order: "A1"\n')
        assert not [done for done in by_http.done() if done.startswith("send_fax")]
        (answer,) = await world.say("approve")
        assert "send_fax done" in answer

    in_world(scenario, llm)
    assert len([done for done in by_http.done() if done.startswith("send_fax")]) == 1


def test_what_a_server_gets_wrong_is_named_and_costs_only_that_call(by_http):
    seen = []
    names = ("lie", "refuse", "huge", "garbage")
    llm = agent(
        [(name, {}) for name in names],
        lambda messages, _info: "\n~\n".join(results(messages)[name] for name in names),
        servers=[MCP(by_http.url)],
        seen=seen,
    )

    async def scenario(world):
        (answer,) = await world.say("go")
        lie, refuse, huge, garbage = answer.split("\n~\n")
        assert lie.startswith("schema_broken: ")
        assert refuse.startswith("failed: ")
        assert "the shop is closed" in refuse
        assert len(huge) < TOOL_RESULT_BYTES_MAX + 500
        assert "garbage done" in garbage

    in_world(scenario, llm)
    offered = {tool.name for tool in seen[0].function_tools}
    assert not offered & {"bent", "far"}  # Their schemas are none.
    assert "'bent': schema_broken" in (seen[0].instructions or "")


def test_a_server_cannot_put_its_tool_in_the_place_of_another(by_http):
    @tool(effect="read")
    async def order_status(ctx, order: str) -> str:
        return "our own"

    seen = []
    servers = [order_status, MCP(by_http.url, name="a"), MCP(by_http.url, name="b")]
    step = ("order_status", {"order": "A1"})
    llm = agent(step, told("order_status"), servers=servers, seen=seen)

    async def scenario(world):
        (answer,) = await world.say("go")
        assert "our own" in answer

    in_world(scenario, llm)
    assert "'order_status': another tool has its name" in (seen[0].instructions or "")


def test_arguments_that_break_the_schema_do_not_reach_the_server(by_http):
    steps = (("send_fax", {"order": 7}), ("send_fax", {"order": "A7"}), told("send_fax"))
    llm = agent(*steps, servers=[MCP(by_http.url)])

    async def scenario(world):
        (answer,) = await world.say("go")
        assert "send_fax done" in answer

    in_world(scenario, llm)
    faxes = [done for done in by_http.done() if done.startswith("send_fax")]
    assert len(faxes) == 1
    assert '"A7"' in faxes[0]


def test_a_server_that_dies_in_a_call_is_an_unknown_outcome_and_starts_again(tmp_path):
    log = tmp_path / "log"
    server = MCP([sys.executable, SERVER], env={"TOOL_LOG": str(log)})
    steps = (("vanish", {}), ("order_status", {"order": "A1"}))

    def conclude(messages, _info):
        return "\n~\n".join(results(messages)[name] for name in ("vanish", "order_status"))

    async def scenario(world):
        vanish, status = (await world.say("go"))[0].split("\n~\n")
        assert vanish.startswith("outcome_unknown: ")
        assert "on its way" in status

    in_world(scenario, agent(*steps, conclude, servers=[server]))
    assert len([line for line in log.read_text().splitlines() if line == "list"]) >= 1
    assert sum(line.startswith("vanish ") for line in log.read_text().splitlines()) == 1


def test_a_keyed_call_without_an_answer_is_sent_again_with_the_same_key(tmp_path):
    log = tmp_path / "log"
    server = MCP([sys.executable, SERVER], env={"TOOL_LOG": str(log)})

    async def scenario(world):
        (answer,) = await world.say("go")
        assert answer.startswith("outcome_unknown: ")

    in_world(scenario, agent(("vanish_keyed", {}), told("vanish_keyed"), servers=[server]))
    sent = [line for line in log.read_text().splitlines() if line.startswith("vanish_keyed")]
    assert len(sent) == 3
    assert len(set(sent)) == 1


def test_a_server_that_is_away_costs_a_turn_only_its_tools():
    seen = []
    servers = [MCP([sys.executable, "-c", "raise SystemExit"], name="ledger")]
    llm = agent("The ledger is away, sorry.", servers=servers, seen=seen)

    async def scenario(world):
        assert await world.say("go") == ["The ledger is away, sorry."]

    in_world(scenario, llm)
    assert "the tool server 'ledger' does not answer" in (seen[0].instructions or "")


def test_calls_that_wait_for_a_server_which_went_away_are_not_lost_in_silence(tmp_path):
    server = Server(tmp_path / "log")
    server.start()
    try:
        first = MCP(server.url, approve=["send_*"])
        llm = agent(("send_fax", {"order": "A1"}), told("send_fax"), servers=[first])

        async def scenario(world):
            await world.say("fax it")
            server.stop()
            await llm.close()  # As a new process, which has no list of its tools either.
            assert await world.say("approve") == [TIRED.sentence]

        in_world(scenario, llm, ward=Ward(ManualClock(), sleep=at_once))
    finally:
        server.stop()
    assert not [done for done in server.done() if done.startswith("send_fax")]


def test_a_breaker_keeps_turns_from_waiting_for_a_server_that_fails(by_http):
    async def scenario():
        ward = Ward(ManualClock())
        llm = agent(
            ("order_status", {"order": "A1"}), told("order_status"), servers=[MCP(by_http.url)]
        )
        breaker = ward.breaker("mcp:127.0.0.1")
        while not breaker.is_open:
            breaker.fail()
        async with AgentWorld([llm], patience=AT_ONCE, ward=ward) as world:
            (answer,) = await world.say("go")
        await llm.close()
        assert answer.startswith("unavailable: ")
        assert not [done for done in by_http.done() if done.startswith("order_status")]

    asyncio.run(scenario())


def test_idle_connections_are_closed_and_come_back(by_http):
    async def scenario():
        clock = ManualClock()
        links = Links(clock)
        link = await links.get(MCP(by_http.url))
        await link.tools()
        await links.close_idle()
        assert link.is_open
        clock.advance(MCP_IDLE_S + 1)
        await links.close_idle()
        assert not link.is_open
        answer = await link.call("order_status", {"order": "A2"}, "k", "read")
        assert answer == "A2 is on its way"
        await links.close()

    asyncio.run(scenario())


def test_of_many_connections_those_unused_longest_are_closed(by_http):
    async def scenario():
        links = Links(ManualClock(), warm_max=2)
        opened = []
        for _ in range(3):
            link = await links.get(MCP(by_http.url))
            await link.tools()
            opened.append(link.is_open)
        known = list(links._links.values())
        assert opened == [True, True, True]
        assert [link.is_open for link in known] == [False, True, True]
        await links.close()

    asyncio.run(scenario())


def test_an_eager_server_that_is_away_is_found_when_the_agent_opens():
    async def scenario():
        llm = agent("x", servers=[MCP([sys.executable, "-c", "raise SystemExit"], name="gone")])
        with pytest.raises(Unavailable, match="gone"):
            await llm.open(Ward(SystemClock()))
        await llm.close()

    asyncio.run(scenario())


def test_a_server_needs_a_place():
    for nowhere in ("", [], "http://"):
        with pytest.raises(Misconfigured):
            MCP(nowhere)
    assert KEY_META == "angarium/idempotencyKey"
