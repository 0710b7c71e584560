"""Which agents there are, now: declared ones first, then those that were discovered."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType

from angarium.agents.agent import Agent
from angarium.agents.contract import AgentKind
from angarium.agents.declared import Declared, Routing
from angarium.agents.loading import load_declared
from angarium.errors import Misconfigured
from angarium.limits import AGENTS_MAX

OnChanged = Callable[["Roster"], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roster:
    """All agents of one moment, in order. Never changes; a change makes another one.

    `default` is empty only while discovery has found nobody yet. `version` follows from all
    that routing goes by (names, descriptions, examples, channels, the routing rules), so that
    nodes with the same agents have the same one, and new code of an agent alone keeps it.
    """

    agents: Mapping[str, AgentKind]
    default: str
    declared: Declared
    version: str


class Registry:
    """The roster, and who is told when it changes. All calls belong to one event loop.

    Turns that run keep the agent they began with; the next one finds the new one.
    """

    def __init__(self, agents: Iterable[AgentKind] | Declared, default: str = "") -> None:
        """Raises Misconfigured when the agents make no sense."""
        self._default = default
        self._found: dict[str, tuple[AgentKind, ...]] = {}
        self._told: list[OnChanged] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._roster = make_roster(_as_declared(agents), (), default)

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def declared(self) -> Declared:
        return self._roster.declared

    @property
    def default(self) -> str:
        return self._roster.default

    @property
    def version(self) -> str:
        return self._roster.version

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._roster.agents)

    def find(self, name: str) -> AgentKind | None:
        return self._roster.agents.get(name)

    def __iter__(self) -> Iterator[AgentKind]:
        return iter(self._roster.agents.values())

    # --- change -------------------------------------------------------------------------------

    def declare(self, agents: Iterable[AgentKind] | Declared, default: str = "") -> None:
        """Replace what was declared. Raises Misconfigured; then nothing has changed."""
        roster = make_roster(_as_declared(agents), self._discovered(), default)
        self._default = default
        self._become(roster)

    def discover(self, source: str, agents: Sequence[AgentKind]) -> None:
        """Replace what `source` has found. A name that is taken, or that comes after
        AGENTS_MAX others, is left out, and the log says so."""
        self._found[source] = tuple(agents)
        self._become(make_roster(self.declared, self._discovered(), self._default))

    def refresh(self) -> None:
        """Look again at what the agents say of themselves: one learnt it when it opened."""
        roster = make_roster(self.declared, self._discovered(), self._default)
        if roster.version != self._roster.version:
            self._become(roster)

    def subscribe(self, told: OnChanged) -> Callable[[], None]:
        """Call `told` after each change, on the loop. Returns the way to stop."""
        self._told.append(told)
        return lambda: self._told.remove(told)

    async def wait_changed(self, version: str) -> Roster:
        """The roster as soon as its version is another than `version`."""
        while self._roster.version == version:
            changed = asyncio.get_running_loop().create_future()
            self._waiting.add(changed)
            try:
                await changed
            finally:
                self._waiting.discard(changed)
        return self._roster

    def _discovered(self) -> list[AgentKind]:
        return [agent for source in sorted(self._found) for agent in self._found[source]]

    def _become(self, roster: Roster) -> None:
        self._roster = roster
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)
        for told in tuple(self._told):
            told(roster)


def load_registry(place: str, default: str = "") -> Registry:
    """The agents of `place`: a dotted module name, a Python file or a TOML file.

    Raises Misconfigured.
    """
    declared = load_declared(place)
    try:
        return Registry(declared, default)
    except Misconfigured as error:
        raise Misconfigured(f"agents from {place!r}: {error}") from None


def make_roster(declared: Declared, found: Iterable[AgentKind], default: str) -> Roster:
    """Raises Misconfigured when the declared agents make no sense."""
    agents: dict[str, AgentKind] = {}
    for agent in declared.agents:
        if agent.name in agents:
            raise Misconfigured(f"two agents are named {agent.name!r}; rename one")
        if isinstance(agent, Agent) and not agent.ready:
            raise Misconfigured(f"agent {agent.name!r} has no function; use @agent.on_turn")
        agents[agent.name] = agent
    if len(agents) > AGENTS_MAX:
        raise Misconfigured(f"{len(agents)} agents are too many; declare up to {AGENTS_MAX}")
    for agent in found:
        if agent.name in agents or len(agents) >= AGENTS_MAX:
            _log.warning("agent %s was discovered and is left out: name taken", agent.name)
        else:
            agents[agent.name] = agent
    chosen = _choose_default(declared, tuple(agents), default)
    return Roster(
        MappingProxyType(agents), chosen, declared, _version(declared, agents, chosen)
    )


def _choose_default(declared: Declared, names: tuple[str, ...], default: str) -> str:
    if default in names:
        return default
    if declared.discovery:
        return names[0] if names else ""  # It may be found yet.
    if not names:
        raise Misconfigured("there is no agent; define one with Agent(name, description)")
    if default:
        known = ", ".join(names)
        raise Misconfigured(f"default_agent {default!r} is not among the agents: {known}")
    return names[0]


def _version(declared: Declared, agents: Mapping[str, AgentKind], default: str) -> str:
    said = [
        [agent.name, agent.description, asdict(agent.terms)["skills"], agent.terms.channels]
        for agent in agents.values()
    ]
    rules = {each.name: getattr(declared.routing, each.name) for each in fields(Routing)}
    whole = json.dumps([said, default, rules], sort_keys=True, default=_named)
    return hashlib.sha256(whole.encode(errors="replace")).hexdigest()[:16]


def _named(value: object) -> str:
    """A function among the rules, as another node names it too."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _as_declared(agents: Iterable[AgentKind] | Declared) -> Declared:
    return agents if isinstance(agents, Declared) else Declared(tuple(agents))
