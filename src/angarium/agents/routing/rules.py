"""Who answers a message. Pure: facts in, a decision with its reason out.

In this order: people who have taken over > a pending question > control words and mentions >
an acknowledgement keeps the agent > what the classifier says > the agent that has the
conversation > the default.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from angarium.agents.contract import AgentKind
from angarium.agents.routing.words import is_acknowledgement
from angarium.limits import ROUTE_EXAMPLE_CHARS_MAX

_MENTION = re.compile(r"@([A-Za-z][A-Za-z0-9_-]{0,31})(?=\s|[,:;!?.]|$)[,:]?\s*")


@dataclass(frozen=True, slots=True)
class ToHuman:
    """People have the conversation: agents stay silent."""

    reason: str = "human"


@dataclass(frozen=True, slots=True)
class ToQuestion:
    """It answers the question that is pending in the conversation."""

    reason: str = "pending question"


@dataclass(frozen=True, slots=True)
class ToAgent:
    """`agent` answers `text` (the mention is cut off). `score` is the cosine of the nearest
    example where examples decided, else 0."""

    agent: str
    text: str
    reason: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Switch:
    """From now on `agent` has the conversation; there is nothing to answer yet."""

    agent: str
    reason: str = "mention"


@dataclass(frozen=True, slots=True)
class ListAgents:
    """The gateway itself says who is here."""

    reason: str = "/agents"


@dataclass(frozen=True, slots=True)
class Reset:
    """The gateway forgets memory, sticky agent and pending question of the conversation."""

    reason: str = "/reset"


Decision = ToHuman | ToQuestion | ToAgent | Switch | ListAgents | Reset


Rule = tuple[float, float]  # Least cosine of the nearest example, least margin of likeness.


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a conversation beside the message. `addressed` is the agent that a
    client named beside the text; it counts like a mention. `declined` said "not mine"."""

    sticky: str = ""
    addressed: str = ""
    pending: bool = False
    human: bool = False
    channel: str = "app"
    declined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guess:
    """What the examples say of a message. `share` is the best agent's part of all likeness and
    `kept_share` that of the agent that has the conversation, both of 1; `fits` is whether its
    `score` reaches the bound below which nobody is meant."""

    agent: str
    nearest: float
    example: str
    share: float
    kept_share: float
    fits: bool
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which agent, why, and how near."""

    agent: str
    reason: str
    score: float = 0.0


def control(text: str, facts: Facts, agents: Collection[str]) -> Decision | None:
    """What needs no examples: None where they must decide. `agents` are those that may answer
    here.

    `/reset` alone goes before a pending question: it is the only way out of one.
    """
    if facts.human:
        return ToHuman()
    word = text.strip().lower()
    if word == "/reset":
        return Reset()
    if facts.pending:
        return ToQuestion()
    if word == "/agents":
        return ListAgents()
    mention = _MENTION.match(text.lstrip())
    if mention and mention[1].lower() in agents:
        rest = text.lstrip()[mention.end() :]
        name = mention[1].lower()
        return ToAgent(name, rest, "mention") if rest.strip() else Switch(name)
    if facts.addressed in agents:
        return ToAgent(facts.addressed, text, "addressed")
    if facts.sticky in agents and is_acknowledgement(text):
        return ToAgent(facts.sticky, text, "acknowledgement")
    return None


def without_examples(facts: Facts, agents: Sequence[str], default: str) -> Verdict:
    """The agent that has the conversation, else the default, else the first that may answer;
    no agent where none may."""
    if facts.sticky in agents:
        return Verdict(facts.sticky, "sticky")
    if default in agents:
        return Verdict(default, "default")
    return Verdict(agents[0] if agents else "", "default")


def with_examples(
    guess: Guess,
    facts: Facts,
    agents: Sequence[str],
    *,
    fallback: str,
    rule: tuple[float, float],
) -> Verdict:
    """Another agent takes a conversation over only when its nearest example and its margin
    reach `rule`; a conversation that nobody has goes to the best agent, or to `fallback` when
    it fits none."""
    near = f"{quoted(guess.example)} {guess.nearest:.2f}"
    best, nearest = guess.agent, guess.nearest
    if facts.sticky in agents:
        if best == facts.sticky:
            return Verdict(best, f"sticky, nearest {near}", nearest)
        margin = guess.share - guess.kept_share
        if nearest >= rule[0] and margin >= rule[1]:
            return Verdict(best, f"nearest {near}", nearest)
        return Verdict(facts.sticky, f"sticky, though {near} of {best}", nearest)
    if guess.fits:
        return Verdict(best, f"nearest {near}", nearest)
    chosen = without_examples(Facts(), agents, fallback)
    return Verdict(chosen.agent, f"out of scope, nearest {near}", nearest)


def may_answer(agent: AgentKind, channel: str) -> bool:
    """Whether the agent answers people on `channel`."""
    return not agent.terms.channels or channel in agent.terms.channels


def quoted(example: str) -> str:
    """A developer's example in a reason, cut."""
    plain = " ".join(example.split())
    if len(plain) > ROUTE_EXAMPLE_CHARS_MAX:
        plain = plain[: ROUTE_EXAMPLE_CHARS_MAX - 1] + "…"
    return f'"{plain}"'


def read_answer(text: str, options: Sequence[str]) -> str:
    """What a person meant: an option's number or its words in any case give that option."""
    plain = text.strip()
    if plain.isascii() and plain.isdigit() and 1 <= int(plain) <= len(options):
        return options[int(plain) - 1]
    for option in options:
        if option.strip().lower() == plain.lower():
            return option
    return plain
