"""What operators see of a node's agents: who there is, where, and how they do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from angarium.agents.contract import AgentKind
from angarium.agents.kinds.instances import Instances
from angarium.agents.registry import Registry
from angarium.agents.ward import Ward
from angarium.agents.warmer import Warmth

Json = dict[str, Any]


class Finder(Protocol):
    """A discovery, as far as operators care."""

    source: str
    version: str

    @property
    def problems(self) -> Mapping[str, str]: ...

    def places(self, name: str) -> list[Json]: ...


def overview(
    registry: Registry, warmth: Mapping[str, Warmth], ward: Ward, finders: Sequence[Finder]
) -> Json:
    """Names, states and counts of this node; never what was said."""
    roster, breakers = registry.roster, ward.states()
    agents = []
    for agent in roster.agents.values():
        warm = warmth.get(agent.name, Warmth("cold"))
        found = [(each.source, each.places(agent.name)) for each in finders]
        source, instances = next((one for one in found if one[1]), ("declared", []))
        agents.append(
            {
                "name": agent.name,
                "kind": kind_of(agent),
                "source": source,
                "description": agent.description,
                "state": warm.state,
                "problem": warm.problem,
                "breaker": breakers.get(f"agent:{agent.name}", "closed"),
                "turns": ward.outstanding(agent),
                "skills": len(agent.terms.skills),
                "examples": len(agent.terms.examples),
                "channels": list(agent.terms.channels),
                "instances": instances,
            }
        )
    return {
        "version": roster.version,
        "default": roster.default,
        "agents": agents,
        "breakers": dict(breakers),
        "discovery": [
            {"source": each.source, "version": each.version, "left_out": dict(each.problems)}
            for each in finders
        ],
    }


def kind_of(agent: AgentKind) -> str:
    """The word for its kind that files use; of one's own classes, their name."""
    if isinstance(agent, Instances):
        return agent.of
    module = type(agent).__module__
    if module == "angarium.agents.agent":
        return "function"
    if module.startswith("angarium.agents.kinds."):
        return module.rpartition(".")[2]
    return type(agent).__name__
