"""Who answers a message. Pure: facts in, a decision with its reason out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MENTION = re.compile(r"@([A-Za-z][A-Za-z0-9_-]{0,31})(?=\s|[,:;!?.]|$)[,:]?\s*")


@dataclass(frozen=True, slots=True)
class ToQuestion:
    """It answers the question that is pending in the conversation."""

    reason: str = "pending question"


@dataclass(frozen=True, slots=True)
class ToAgent:
    """`agent` answers `text` (the mention is cut off)."""

    agent: str
    text: str
    reason: str


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


Decision = ToQuestion | ToAgent | Switch | ListAgents | Reset


def route(
    text: str,
    *,
    agents: Sequence[str],
    default: str,
    sticky: str = "",
    addressed: str = "",
    pending: bool = False,
) -> Decision:
    """Pending question > control words > sticky agent > default.

    `/reset` alone goes before a pending question: it is the only way out of one. `addressed` is
    the agent a client named beside the text; it counts like a mention.
    """
    word = text.strip().lower()
    if word == "/reset":
        return Reset()
    if pending:
        return ToQuestion()
    if word == "/agents":
        return ListAgents()
    mention = _MENTION.match(text.lstrip())
    if mention and mention[1].lower() in agents:
        rest = text.lstrip()[mention.end() :]
        name = mention[1].lower()
        return ToAgent(name, rest, "mention") if rest.strip() else Switch(name)
    if addressed in agents:
        return ToAgent(addressed, text, "addressed")
    if sticky in agents:
        return ToAgent(sticky, text, "sticky")
    return ToAgent(default, text, "default")


def read_answer(text: str, options: Sequence[str]) -> str:
    """What a person meant: an option's number or its words in any case give that option."""
    plain = text.strip()
    if plain.isascii() and plain.isdigit() and 1 <= int(plain) <= len(options):
        return options[int(plain) - 1]
    for option in options:
        if option.strip().lower() == plain.lower():
            return option
    return plain
