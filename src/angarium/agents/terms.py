"""What every kind of agent declares: a name that can be mentioned, and its terms."""

import re
from collections.abc import Sequence
from typing import Any, TypedDict

from angarium.agents.contract import OnBusy, Skill, Terms
from angarium.errors import Misconfigured

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_name(name: str) -> str:
    """Raises Misconfigured for a name that cannot be mentioned as `@name`."""
    if not _NAME.fullmatch(name):
        raise Misconfigured(
            f"agent name {name!r}: use up to 32 lower-case letters, digits, - and _,"
            " starting with a letter"
        )
    if name == "human":
        raise Misconfigured("agent name 'human' is kept for people; use another")
    return name


class TermOptions(TypedDict, total=False):
    """The terms that every kind of agent takes, as keywords; `Terms` says what they mean."""

    skills: Sequence[Skill]
    examples: Sequence[str]
    channels: Sequence[str]
    on_busy: OnBusy
    first_event_s: float
    quiet_s: float
    timeout_s: float
    at_once: int
    budget_usd: float
    can_handoff: Sequence[str]
    fallback: str


def make_terms(options: TermOptions) -> Terms:
    """Bare `examples` are one more skill, without a name. Raises TypeError for other names."""
    given: dict[str, Any] = dict(options)
    examples = tuple(given.pop("examples", ()))
    skills = tuple(given.pop("skills", ()))
    for name in ("channels", "can_handoff"):
        if name in given:
            given[name] = tuple(given[name])
    return Terms(skills=(*skills, *((Skill("", examples),) if examples else ())), **given)
