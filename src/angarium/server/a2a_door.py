"""One agent behind A2A: its card, its tasks, JSON-RPC and REST, 1.0 and 0.3."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from a2a.auth.user import User
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from starlette.requests import Request
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from angarium.agents.contract import AgentKind, Skill
from angarium.agents.direct import DirectRunner
from angarium.clock import Clock
from angarium.kms.contract import Sealer
from angarium.limits import A2A_PARKED_S
from angarium.server.a2a_execution import Execution
from angarium.server.a2a_tasks import DIED, SealedTasks
from angarium.server.guard import caller
from angarium.storage.contract import Vault

SCHEME = "bearer"


@dataclass(frozen=True, slots=True)
class Ground:
    """What all doors of a node stand on. `base_url` is how callers reach it."""

    runner: DirectRunner
    vault: Vault
    sealer: Sealer
    clock: Clock
    base_url: str
    version: str


class Door:
    """Serves one agent. `close` ends its running tasks."""

    def __init__(self, agent: AgentKind, ground: Ground) -> None:
        self._agent, self._ground = agent, ground
        self._card = card_of(agent, ground.base_url, ground.version)
        self._tasks = SealedTasks(agent.name, ground.vault, ground.sealer, ground.clock)
        self._handler = DefaultRequestHandler(
            agent_executor=Execution(agent.name, ground.runner, self._tasks),
            task_store=self._tasks,
            agent_card=self._card,
            interrupted_task_timeout=A2A_PARKED_S,
        )
        callers = Callers()
        self._router = Router(
            [
                *create_jsonrpc_routes(
                    self._handler, "/", context_builder=callers, enable_v0_3_compat=True
                ),
                *create_rest_routes(
                    self._handler, context_builder=callers, path_prefix="/rest"
                ),
            ],
            redirect_slashes=False,
        )

    def show(self, agent: AgentKind) -> None:
        """The agent was replaced by this one, of the same name; running tasks go on."""
        if agent is not self._agent:
            self._agent = agent
            self._card = card_of(agent, self._ground.base_url, self._ground.version)

    def card(self) -> tuple[dict[str, Any], str]:
        """The card and its tag."""
        shape = agent_card_to_dict(self._card)
        packed = json.dumps(shape, sort_keys=True).encode()
        return shape, f'W/"{hashlib.sha256(packed).hexdigest()[:32]}"'

    async def serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for `path` under the agent's A2A address."""
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        for name in ("route", "endpoint", "path_params", "router"):
            inner.pop(name, None)
        await self._router(inner, receive, send)

    async def close(self) -> None:
        await self._handler.aclose()
        await self._tasks.end_all(DIED)


class Caller(User):
    """The person of the bearer token."""

    def __init__(self, user: str) -> None:
        self._user = user

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._user


class Callers(ServerCallContextBuilder):
    """Tells the SDK who calls; the guard has looked at the token before."""

    def build(self, request: Request) -> ServerCallContext:
        headers = {
            name: value for name, value in request.headers.items() if name != "authorization"
        }
        return ServerCallContext(user=Caller(caller(request).user), state={"headers": headers})


def card_of(agent: AgentKind, base_url: str, version: str) -> AgentCard:
    """What others may know of the agent: its words and its skills with their examples."""
    url = f"{base_url.rstrip('/')}/agents/{agent.name}/a2a"
    skills = agent.terms.skills or (Skill(agent.name),)
    return AgentCard(
        name=agent.name,
        description=agent.description or agent.name,
        version=version,
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[_skill(agent, number, skill) for number, skill in enumerate(skills, 1)],
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0"),
            AgentInterface(
                url=f"{url}/rest", protocol_binding="HTTP+JSON", protocol_version="1.0"
            ),
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="0.3"),
        ],
        security_schemes={
            SCHEME: SecurityScheme(
                http_auth_security_scheme=HTTPAuthSecurityScheme(scheme="bearer")
            )
        },
        security_requirements=[SecurityRequirement(schemes={SCHEME: StringList()})],
    )


def _skill(agent: AgentKind, number: int, skill: Skill) -> AgentSkill:
    name = skill.name or f"skill-{number}"
    return AgentSkill(
        id=name,
        name=name,
        description=skill.description or agent.description or name,
        tags=[agent.name],
        examples=list(skill.examples),
    )
