"""What is wrong with the agents' examples, before people find it out. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from angarium.agents.contract import AgentKind
from angarium.agents.declared import Routing
from angarium.agents.routing.rules import quoted
from angarium.agents.routing.words import normalise

FEW = 20  # Agents with fewer examples are found less often.
_CONFUSED_SHARE = 0.10  # Of an agent's examples, nearer to one other agent; and at least
_CONFUSED_MIN = 2  # so many.


@dataclass(frozen=True, slots=True)
class Example:
    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class Tried:
    """One example, looked at as if it were a message: who would have got it, for which other
    example, and how near that is."""

    example: Example
    guess: str
    like: str
    nearest: float


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["error", "warning"]
    sentence: str


@dataclass(frozen=True, slots=True)
class Row:
    """Of one agent. `found` is the share of its examples that it would get if each were a
    message; None where that was not tried."""

    agent: str
    examples: int
    found: float | None


@dataclass(frozen=True, slots=True)
class Report:
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    found: float | None

    @property
    def has_errors(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)


def lint(
    agents: Sequence[AgentKind], default: str, routing: Routing, tried: Sequence[Tried] | None
) -> Report:
    """`tried` is None where there is no model to try with."""
    names = {agent.name for agent in agents}
    right = Counter(one.example.agent for one in tried or () if one.guess == one.example.agent)
    total = Counter(one.example.agent for one in tried or ())
    rows = tuple(
        Row(
            agent.name,
            len(set(agent.terms.examples)),
            right[agent.name] / total[agent.name] if total[agent.name] else None,
        )
        for agent in agents
    )
    findings = (
        *_unknown_names(agents, names, routing),
        *_shared_examples(agents),
        *_few_examples(rows, {default, routing.fallback}),
        *_confusable(tried or ()),
    )
    return Report(rows, findings, sum(right.values()) / len(tried) if tried else None)


def _unknown_names(
    agents: Sequence[AgentKind], names: set[str], routing: Routing
) -> Iterator[Finding]:
    if routing.fallback and routing.fallback not in names:
        sentence = f"routing: the fallback {routing.fallback} is not among the agents"
        yield Finding("error", sentence)
    for agent in agents:
        fallback = agent.terms.fallback
        if fallback and fallback not in names:
            yield Finding(
                "error", f"{agent.name}: its fallback {fallback} is not an agent here"
            )
        for to in agent.terms.can_handoff:
            if to not in names and to not in ("*", "human"):
                sentence = f"{agent.name}: may hand off to {to}, which is not an agent here"
                yield Finding("warning", sentence)


def _shared_examples(agents: Sequence[AgentKind]) -> Iterator[Finding]:
    owners: dict[str, list[str]] = {}
    for agent in agents:
        for text in {normalise(example) for example in agent.terms.examples}:
            owners.setdefault(text, []).append(agent.name)
    for text, names in owners.items():
        if len(names) > 1:
            shared = " and ".join(names)
            yield Finding("error", f"{shared} have the same example {quoted(text)}")


def _few_examples(rows: Sequence[Row], found_anyway: set[str]) -> Iterator[Finding]:
    if len(rows) < 2:
        return
    for row in rows:
        if row.examples == 0 and row.agent not in found_anyway:
            yield Finding("warning", f"{row.agent}: no examples; only @{row.agent} leads to it")
        elif 0 < row.examples < FEW:
            sentence = f"{row.agent}: {row.examples} examples are few; give it {FEW} or more"
            yield Finding("warning", sentence)


def _confusable(tried: Sequence[Tried]) -> Iterator[Finding]:
    total = Counter(one.example.agent for one in tried)
    wrong: dict[tuple[str, str], list[Tried]] = {}
    for one in tried:
        if one.guess != one.example.agent:
            wrong.setdefault((one.example.agent, one.guess), []).append(one)
    for (agent, other), cases in sorted(wrong.items(), key=lambda each: -len(each[1])):
        if len(cases) < max(_CONFUSED_MIN, _CONFUSED_SHARE * total[agent]):
            continue
        worst = max(cases, key=lambda case: case.nearest)
        yield Finding(
            "warning",
            f"{agent} and {other} are confusable: {len(cases)} of {total[agent]} examples of"
            f" {agent} are nearer to {other}, such as {quoted(worst.example.text)} to"
            f" {quoted(worst.like)}",
        )
