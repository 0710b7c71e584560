"""Agents in TOML have the fields of Python, and a mistake is told with its place."""

import inspect
import sys

import pytest

from angarium.agents.agent import Agent
from angarium.agents.declared import EvalCase, Kubernetes, Routing
from angarium.agents.named import KINDS, load_kind
from angarium.agents.registry import load_registry
from angarium.agents.tables import hints_of
from angarium.agents.terms import TermOptions
from angarium.agents.toml import load_toml
from angarium.errors import Misconfigured

SHOP = """
from angarium import Agent

async def greet(turn):
    return f"Hello {turn.text}"

def plain(turn):
    return "no"

parcels = Agent("parcels", "Where parcels are")

@parcels.on_turn
async def find(turn):
    return "here"
"""
GREETER = '[agents.greeter]\ntype = "function"\nfunction = "shop:greet"\n'


@pytest.fixture(autouse=True)
def unchanged_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def load(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)

    def read(text, **environ):
        (tmp_path / "agents.toml").write_text(text)
        return load_toml(tmp_path / "agents.toml", environ)

    return read


def test_a_function_agent_is_the_same_as_in_python(load):
    declared = load(
        GREETER
        + """
description = "Greets"
skills.greet = ["hello", "good day"]
skills.leave = { examples = ["bye"], description = "Says goodbye" }
channels = "app"
on_busy = "enqueue"
timeout = "1.5m"
quiet_s = 7
at_once = 3
can_handoff = ["human"]
"""
    )
    (made,) = declared.agents
    from angarium import skill

    python = Agent(
        "greeter",
        "Greets",
        skills=[
            skill("greet", "hello", "good day"),
            skill("leave", "bye", description="Says goodbye"),
        ],
        channels=["app"],
        on_busy="enqueue",
        timeout_s=90,
        quiet_s=7,
        at_once=3,
        can_handoff=["human"],
    )
    assert (made.name, made.description, made.terms) == ("greeter", "Greets", python.terms)
    assert made.ready


def test_code_beside_the_file_adds_its_agents_and_is_loaded_once(load):
    declared = load('code = ["shop.py"]\n' + GREETER)

    assert [agent.name for agent in declared.agents] == ["greeter", "parcels"]


def test_the_registry_takes_a_toml_file(load, tmp_path):
    load(GREETER)

    assert load_registry(str(tmp_path / "agents.toml")).names == ("greeter",)


def test_routing_trials_and_discovery_are_read(load):
    declared = load(
        GREETER
        + """
[routing]
fallback = "greeter"
switch = { nearest = 0.7, margin = 0.2 }
oos_keep = 0.9

[discovery.kubernetes]
selector = "team=shop"
mode = "watch"
token_file = "token"

[[eval]]
say = "where is my parcel"
agent = "greeter"
contains = "Hello"

[[eval]]
say = ["one", "two"]
"""
    )
    assert declared.routing == Routing(
        fallback="greeter", switch_nearest=0.7, switch_margin=0.2, oos_keep=0.9
    )
    assert declared.evals == (
        EvalCase(("where is my parcel",), "greeter", ("Hello",)),
        EvalCase(("one", "two")),
    )
    (found,) = declared.discovery
    assert found.selector == "team=shop"
    assert found.token_file.endswith("/token")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[agents", "is not TOML"),
        ("[agent.x]", r"unknown key 'agent'; did you mean 'agents'\?"),
        ("agents = 3", r"\[agents\]: this is to be a table, not a number"),
        ("[agents]\nx = 'llm'", r"\[agents\.x\]: this is to be a table, not text"),
        ("[agents.x]", r"\[agents\.x\]: type is one of function, llm.*, not ''"),
        ("[agents.x]\ntype = 'robot'", "not 'robot'"),
        ("[agents.x]\ntype = 'function'", "function names a Python object"),
        (GREETER + "promt = 'x'", r"\[agents\.greeter\]: unknown key 'promt'"),
        (GREETER + "timout = '60s'", "did you mean 'timeout'"),
        (GREETER + "timeout = '60 parsecs'", 'timeout: a duration is text like "500ms"'),
        (GREETER + "timeout = 60", 'timeout: a duration is text like "500ms"'),
        (GREETER + "timeout = '60s'\ntimeout_s = 3", "'timeout_s' is said twice"),
        (GREETER + "at_once = 'many'", "at_once: expected `int`, got `str`"),
        (GREETER + "on_busy = 'shout'", "on_busy: invalid enum value 'shout'"),
        (
            GREETER + "skills = [{ examples = ['x'] }]",
            "skills: .*missing required field `name`",
        ),
        (GREETER.replace("shop:", "nowhere:"), "no module named 'nowhere'"),
        (GREETER.replace(":greet", ":absent"), "'shop' has no 'absent'"),
        (GREETER.replace(":greet", ":plain"), r"\[agents\.greeter\]: .*async def"),
        (GREETER.replace("agents.greeter", "agents.Greeter"), "lower-case letters"),
        (GREETER + "[routing]\nembeder = 'minilm'", r"\[routing\]: unknown key 'embeder'"),
        (GREETER + "[routing]\noos_keep = 'much'", r"\[routing\]: oos_keep: expected `float`"),
        (GREETER + "[discovery.nomad]", r"\[discovery\]: unknown key 'nomad'"),
        (GREETER + "[[eval]]\nagent = 'x'", r"\[eval 1\]: 'say' is missing"),
        (GREETER + "[eval]\nagent = 'x'", r"write each trial as \[\[eval\]\]"),
        ("code = ['gone.py']", r"gone\.py' does not exist"),
    ],
)
def test_a_mistake_is_told_with_its_file_table_and_key(load, text, sentence):
    with pytest.raises(Misconfigured, match=sentence) as raised:
        load(text)
    if "gone" not in text and "nowhere" not in text:
        assert "agents.toml" in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(Misconfigured, match="does not exist"):
        load_toml(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(Misconfigured, match="is not UTF-8"):
        load_toml(tmp_path / "bytes.toml")
    with pytest.raises(Misconfigured, match="Is a directory"):
        load_toml(tmp_path)


def kinds_here():
    """The kinds whose modules are there; each needs its own extra."""
    found = {}
    for name, place in KINDS.items():
        try:
            found[name] = load_kind(place)
        except (Misconfigured, AttributeError):
            continue
    return found


@pytest.mark.parametrize("kind", sorted(kinds_here()))
def test_every_kind_takes_all_terms_and_its_own_arguments(kind):
    make = kinds_here()[kind]
    hints = hints_of(make)

    assert set(TermOptions.__annotations__) <= set(hints)
    named = {
        name
        for name, each in inspect.signature(make).parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    assert named <= set(hints)


def test_discovery_and_routing_have_no_field_that_a_file_cannot_set():
    import msgspec

    for made in (Kubernetes, Routing, EvalCase):
        for hint in hints_of(made).values():
            msgspec.json.Decoder(hint)


TOOLS = """
from angarium import tool

@tool(effect="keyed")
async def refund(ctx, order: str, cents: int) -> str:
    "Refund an order."
    return "done"
"""


def test_an_llm_agent_with_tools_servers_and_a_prompt_of_its_own_file(load, tmp_path):
    pytest.importorskip("pydantic_ai")
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "support.md").write_text("You are the shop's support agent.")
    text = """
[agents.support]
type = "llm"
description = "Refunds, complaints, invoices"
model = ["openai:gpt-5.2", "openai:gpt-5.2-mini"]
prompt_file = "support.md"
tools = ["tools:refund"]
timeout = "60s"
max_tool_calls = 8
budget_usd = 0.05
can_handoff = ["orders", "human"]
skills.refund = ["i want my money back"]
mcp.shop = { url = "https://mcp.shop/mcp", lazy = true, approve = ["refund_*"] }
mcp.local = { command = "python server.py", effect = "read", env = { KEY = "${SHOP_KEY}" } }
"""
    (agent,) = load(text, SHOP_KEY="secret").agents

    outline = agent._warm._outline
    assert list(agent.models) == ["openai:gpt-5.2", "openai:gpt-5.2-mini"]
    assert outline.prompt == "You are the shop's support agent."
    assert [tool.name for tool in outline.tools] == ["refund"]
    shop, local = outline.servers
    assert (shop.name, shop.url, shop.lazy, shop.approve) == (
        "shop",
        "https://mcp.shop/mcp",
        True,
        ("refund_*",),
    )
    assert (local.name, local.command, local.effect) == (
        "local",
        ("python", "server.py"),
        "read",
    )
    assert local.env == {"KEY": "secret"}
    assert agent.terms.budget_usd == 0.05
    assert agent.terms.can_handoff == ("orders", "human")

    with pytest.raises(Misconfigured, match="the environment has no SHOP_KEY"):
        load(text)


REMOTE = """
[agents.chat]
type = "openai"
base_url = "http://vllm/v1"
model = "qwen"
api_key = "VLLM_KEY"
channels = ["app"]

[agents.billing]
type = "cloudevents"
url = "http://billing.agents.svc"
mode = "structured"

[agents.weather]
type = "a2a"
card_url = "https://weather.example/.well-known/agent-card.json"
examples = ["will it rain"]
"""


def test_agents_elsewhere_are_made_by_their_makers(load):
    pytest.importorskip("a2a")
    from angarium.agents.overview import kind_of

    declared = load(REMOTE)

    assert [(agent.name, kind_of(agent)) for agent in declared.agents] == [
        ("chat", "openai"),
        ("billing", "cloudevents"),
        ("weather", "a2a"),
    ]
    assert declared.agents[2].terms.examples == ("will it rain",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("type = 'openai'\nmodel = 'x'", "'base_url' is missing"),
        ("type = 'openai'\nmodel = 3\nbase_url = 'http://x'", "model: expected `str`"),
        ("type = 'openai'\nmodel = 'x'\nbase_url = 'ftp://x'", r"\[agents\.x\]: "),
        ("type = 'cloudevents'\nurl = 'http://x'\nmode = 'loud'", "mode: invalid enum value"),
        ("type = 'llm'", "'model' is missing"),
        ("type = 'llm'\nmodel = 'openai:x'\nprompt_file = 'no.md'", "'no.md' cannot be read"),
        (
            "type = 'llm'\nmodel = 'openai:x'\nprompt = 'a'\nprompt_file = 'no.md'",
            "not both",
        ),
        ("type = 'llm'\nmodel = 'openai:x'\nclock = 3", "can be set in Python only"),
        ("type = 'llm'\nmodel = 'openai:x'\nmcp.a = {}", r"\[agents\.x\.mcp\.a\]: say where"),
        (
            "type = 'llm'\nmodel = 'openai:x'\nmcp.a = { url = 'http://x', lasy = true }",
            "'lazy'",
        ),
        ("type = 'llm'\nmodel = 'openai:x'\ntools = ['shop:greet']", "made by `@tool`"),
    ],
)
def test_a_mistake_in_any_kind_is_told_with_its_table(load, text, sentence):
    pytest.importorskip("pydantic_ai")
    with pytest.raises(Misconfigured, match=sentence) as raised:
        load(f"[agents.x]\n{text}\n")
    assert "agents.toml, [agents.x" in str(raised.value)
