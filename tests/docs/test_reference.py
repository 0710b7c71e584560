"""The reference pages and the code say the same."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from angarium.bus.local import LocalBus
from angarium.cli.admin import settings_table
from angarium.cli.main import COMMANDS
from angarium.clock import ManualClock
from angarium.errors import every_error
from angarium.ids import UserId
from angarium.messaging.figures import Figures
from angarium.server.api import ApiParts, WellKnown, api_routers, make_app
from angarium.server.audit import AuditTrail
from angarium.server.auth import Tokens
from angarium.server.guard import Guard
from angarium.server.health import Health
from angarium.server.roles import Roles
from angarium.server.routes_a2a import A2ARoutes
from angarium.server.routes_agents import AgentsRoutes
from angarium.server.routes_openai import OpenAIRoutes
from angarium.server.routes_takeover import TakeoverRoutes
from angarium.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "angarium"


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text()


def routes() -> set[tuple[str, str]]:
    """Method and path of every route of a node, but for webhooks."""
    nothing: Any = None
    clock = ManualClock()
    store = type("Nothing", (), {"__getattr__": lambda self, name: None})()
    parts = ApiParts(
        store=store,
        keys=nothing,
        bus=LocalBus(),
        clock=clock,
        tokens=Tokens(b"x" * 32, clock),
        audit=AuditTrail(audit=nothing, clock=clock, secret=b"x"),
        roles=Roles(UserId("@gateway:angarium")),
        limiter=None,
        well_known=WellKnown("", "", ""),
    )
    guard = Guard(parts.tokens)
    openai = OpenAIRoutes(requests=nothing, registry=nothing, clock=clock, guard=guard)
    agents = AgentsRoutes(look=dict, trail=parts.audit, guard=guard)
    takeover = TakeoverRoutes(
        operators=nothing,
        spend=nothing,
        conversations=nothing,
        gateway=UserId("@gateway:angarium"),
        trail=parts.audit,
        guard=guard,
    )
    more = [openai.router(), agents.router(), takeover.router()]
    a2a = A2ARoutes(
        registry=nothing,
        runner=nothing,
        vault=nothing,
        sealer=nothing,
        clock=clock,
        guard=guard,
        base_url="",
        version="",
    )
    routers = [*api_routers(parts), *more, *a2a.routers()]
    app = make_app(version="0", health=Health({}), metrics=Metrics(), routers=routers)
    paths = app.openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_every_route_stands_in_the_http_page_and_no_other() -> None:
    listed = re.findall(r"^\| ([A-Z]+) \| `([^`]+)` \|", page("http-api.md"), re.MULTILINE)

    assert set(listed) == routes()


def test_every_error_stands_in_the_errors_page_with_its_numbers() -> None:
    row = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (yes|no) \|", re.MULTILINE)
    listed = set(row.findall(page("errors.md")))
    known = {
        (
            code,
            str(error.http_status),
            str(error.close_code),
            "yes" if error.retryable else "no",
        )
        for code, error in every_error().items()
    }

    assert listed == known


def test_the_settings_page_is_what_the_command_prints() -> None:
    assert settings_table() in page("config.md"), "run `angarium settings` and put it there"


def test_every_command_stands_in_the_cli_page() -> None:
    listed = dict(
        re.findall(r"^\| `angarium ([\w-]+)` \| (.+) \|$", page("cli.md"), re.MULTILINE)
    )

    assert listed == {name: about for name, (_, about) in COMMANDS.items()}


def documented_metrics() -> set[str]:
    return set(re.findall(r"^\| `angarium_([a-z0-9_]+)", page("metrics.md"), re.MULTILINE))


def figure_names(path: Path) -> set[str]:
    """Keys of the dictionary that a `figures` method returns."""
    found = [
        key.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "figures"
        for inner in ast.walk(node)
        if isinstance(inner, ast.Dict)
        for key in inner.keys
        if isinstance(key, ast.Constant)
    ]
    return {str(name) for name in found}


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("store", "storage/sqlite/store.py"),
        ("store", "storage/mongo/store.py"),
        ("gateway", "agents/gateway.py"),
        ("discovery", "agents/discovery/kubernetes.py"),
        ("limiter_sends", "server/shared_limiter.py"),
        ("limiter_api", "server/shared_limiter.py"),
        ("breakers", "bus/redis_breakers.py"),
        ("bus", "bus/redis.py"),
    ],
)
def test_figures_of_a_part_stand_in_the_metrics_page(part: str, path: str) -> None:
    names = figure_names(SOURCE / path)

    assert names
    assert {f"{part}_{name}" for name in names} <= documented_metrics()


def test_figures_of_messaging_stand_in_the_metrics_page() -> None:
    assert {f"messaging_{name}" for name in Figures().numbers()} <= documented_metrics()


def test_metrics_made_by_name_stand_in_the_metrics_page() -> None:
    made = re.compile(r"metrics\.(?:counter|labelled|gauge|histogram)\(\s*\"([a-z0-9_]+)\"")
    names = {name for path in SOURCE.rglob("*.py") for name in made.findall(path.read_text())}

    assert {"http_responses_total"} <= names <= documented_metrics()
