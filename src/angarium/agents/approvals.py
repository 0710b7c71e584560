"""A person's approval of one tool call: of its exact arguments, and not for ever. Pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from angarium.agents.marking import clean
from angarium.limits import APPROVAL_ARGUMENTS_CHARS_MAX, APPROVAL_KEPT_S

APPROVE, DENY = "Approve", "Deny"
OPTIONS = (APPROVE, DENY)


def canonical(arguments: dict[str, Any]) -> str:
    """Arguments as one text: equal arguments, equal text."""
    return json.dumps(arguments, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def matches(tool: str, patterns: Sequence[str]) -> bool:
    """Whether a tool's name fits one of the patterns (`refund_*`)."""
    return any(fnmatchcase(tool, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Approval:
    """The question whether `tool` may run with exactly these arguments, in the call `call`."""

    tool: str
    arguments: dict[str, Any]
    call: str

    @property
    def digest(self) -> str:
        """Of tool and arguments: another argument is another question."""
        text = f"{self.tool}\n{canonical(self.arguments)}"
        return hashlib.sha256(text.encode(errors="replace")).hexdigest()

    @property
    def name(self) -> str:
        """The question's name in the journal; the call is part of it, so that a denied call
        that is made anew is asked anew."""
        return f"approve/{self.tool}/{self.digest}/{self.call}"

    @property
    def can_be_shown(self) -> bool:
        """Nobody is asked to approve what does not fit into a message."""
        return len(canonical(self.arguments)) <= APPROVAL_ARGUMENTS_CHARS_MAX

    @property
    def question(self) -> str:
        """What the person reads, with the beginning of the digest for the record."""
        lines = [f"- {clean(key)}: {_shown(value)}" for key, value in self.arguments.items()]
        shown = "\n".join(lines) or "- nothing"
        return f"May I run {clean(self.tool)} with\n{shown}\n({self.digest[:8]})"


def judge(answer: str, asked_ms: int, now_ms: int) -> str:
    """Empty when the answer approves; else what the model is told."""
    if now_ms - asked_ms > APPROVAL_KEPT_S * 1000:
        return (
            "expired: the approval came too late. Ask again only if the person still wants it."
        )
    if answer == APPROVE:
        return ""
    if answer == DENY:
        return "denied: the person does not want this. Do not try again."
    return f"denied: the person did not approve but wrote: {clean(answer)[:500]}"


def _shown(value: Any) -> str:
    """On one line: an argument must not look like another argument."""
    return clean(json.dumps(value, sort_keys=True, ensure_ascii=False))
