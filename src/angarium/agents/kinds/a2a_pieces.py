"""What a remote task says, as an agent's events: every piece once, however often it comes.

Pure. A chunk carries no number, so what was given of an artifact is remembered as text; a
snapshot of the task gives what lies beyond it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from a2a.types import (
    Artifact,
    Message,
    Part,
    StreamResponse,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
)
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from angarium.agents.contract import AgentEvent, Media, Status, Text
from angarium.errors import TooLarge
from angarium.limits import A2A_ANSWER_BYTES_MAX, A2A_FILES_MAX, A2A_STATUS_CHARS_MAX

WAITING = frozenset({TaskState.TASK_STATE_INPUT_REQUIRED, TaskState.TASK_STATE_AUTH_REQUIRED})
FAILED = frozenset(
    {
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
        TaskState.TASK_STATE_CANCELED,
    }
)
ENDED = FAILED | {TaskState.TASK_STATE_COMPLETED}
BETWEEN = "\n\n"


Had = dict[str, tuple[int, str]]
"""By artifact: how many parts were given before, and a digest of their text."""


@dataclass(slots=True)
class _Artifact:
    """As far as it is known. `given`: what went out of its text; `had`: its first parts went
    out before a question, and are not in `parts`."""

    parts: list[Part] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    had: int = 0
    digest: str = ""
    closed: bool = False


class Pieces:
    """Takes what a remote agent sends about one task, and gives what is new in it.

    `had`: what earlier rounds of the same task gave. Raises TooLarge when a task holds more
    than A2A_ANSWER_BYTES_MAX.
    """

    def __init__(self, had: Had | None = None) -> None:
        self.state: TaskState = TaskState.TASK_STATE_UNSPECIFIED
        self.question = ""  # While it waits for the person.
        self.snapshots_only = False  # After a break chunks may be missing, or come again.
        self._artifacts = {
            name: _Artifact(had=count, digest=digest)
            for name, (count, digest) in (had or {}).items()
        }
        self._told: set[str] = set()
        self._last = ""
        self._bytes = 0
        self._answered = False

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for: it has ended, or waits for the person."""
        return self._answered or self.state in ENDED or self.state in WAITING

    def take(self, response: StreamResponse) -> list[AgentEvent]:
        """The events in it that were not given before."""
        match response.WhichOneof("payload"):
            case "message":
                return self._answer(response.message)
            case "task":
                events = self._status(response.task.status)
                for artifact in response.task.artifacts:
                    self._replace(artifact, whole=True)
                return [*self._flow(), *events]
            case "status_update":
                return self._status(response.status_update.status)
            case "artifact_update":
                self._chunk(response.artifact_update)
                return self._flow()
            case _:
                return []

    def rest(self) -> list[AgentEvent]:
        """What is left when it is over: later artifacts, the last words, the files."""
        events = self._flow(everything=True)
        said = "".join("".join(one.given) for one in self._artifacts.values())
        if self._last and self._last.strip() not in said:
            events.append(Text(BETWEEN + self._last if said else self._last))
        for artifact in self._artifacts.values():
            events += _files(artifact.parts)
        return events

    def had(self) -> Had:
        """What has been given by now, for the next round."""
        found = {}
        for name, one in self._artifacts.items():
            found[name] = (one.had + len(one.parts), _digest(one.digest, one.parts))
        return found

    # --- messages and states ------------------------------------------------------------------

    def _answer(self, message: Message) -> list[AgentEvent]:
        self._answered = True
        self._count(message.parts)
        text = text_of(message.parts)
        return [*([Text(text)] if text else []), *_files(message.parts)]

    def _status(self, status: TaskStatus) -> list[AgentEvent]:
        self.state = status.state
        text = text_of(status.message.parts)
        if status.state in WAITING:
            self.question = text
        elif status.state == TaskState.TASK_STATE_COMPLETED:
            self._last = text
        elif (
            text and status.state not in FAILED and status.message.message_id not in self._told
        ):
            self._told.add(status.message.message_id)
            return [Status(text[:A2A_STATUS_CHARS_MAX])]
        return []

    # --- artifacts ----------------------------------------------------------------------------

    def _chunk(self, update: TaskArtifactUpdateEvent) -> None:
        artifact = update.artifact
        known = self._artifacts.get(artifact.artifact_id)
        if self.snapshots_only or (known is not None and known.closed and update.append):
            return
        if update.append:
            self._count(artifact.parts)
            known = self._artifacts.setdefault(artifact.artifact_id, _Artifact())
            known.parts.extend(artifact.parts)
        else:
            self._replace(artifact)
        if update.last_chunk:
            self._artifacts[artifact.artifact_id].closed = True

    def _replace(self, artifact: Artifact, whole: bool = False) -> None:
        known = self._artifacts.setdefault(artifact.artifact_id, _Artifact())
        if known.had and not (whole and _starts_with(known, artifact.parts)):
            known.had, known.digest = 0, ""  # It is another one now.
        parts = list(artifact.parts[known.had :])
        if whole and len(parts) < len(known.parts):
            return  # A server that started anew may have lost what we have.
        self._bytes -= sum(part.ByteSize() for part in known.parts)
        self._count(parts)
        known.parts = parts

    def _count(self, parts: Sequence[Part]) -> None:
        self._bytes += sum(part.ByteSize() for part in parts)
        if self._bytes > A2A_ANSWER_BYTES_MAX:
            raise TooLarge(f"a remote task is over {A2A_ANSWER_BYTES_MAX} bytes")

    def _flow(self, everything: bool = False) -> list[AgentEvent]:
        """New text, one artifact after the other: the next begins when this one is closed."""
        events: list[AgentEvent] = []
        said = False
        for artifact in self._artifacts.values():
            fresh = _fresh(artifact)
            if fresh:
                first = said and not artifact.given
                artifact.given.append(fresh)
                events.append(Text(BETWEEN + fresh if first else fresh))
            said = said or bool(artifact.given)
            if not (artifact.closed or everything) and artifact.given:
                break
        return events


def _digest(before: str, parts: Sequence[Part]) -> str:
    """Of `parts` after those with the digest `before`."""
    for part in parts:
        raw = part.SerializeToString(deterministic=True)
        before = hashlib.sha256(before.encode() + raw).hexdigest()
    return before


def _starts_with(known: _Artifact, parts: Sequence[Part]) -> bool:
    """Whether `parts` begin with those that were given before."""
    return len(parts) >= known.had and _digest("", parts[: known.had]) == known.digest


def _fresh(artifact: _Artifact) -> str:
    text, given = text_of(artifact.parts), "".join(artifact.given)
    if text.startswith(given):
        return text[len(given) :]
    if given.startswith(text):
        return ""
    return BETWEEN + text  # It was replaced by something else; what was said was said.


def text_of(parts: Sequence[Part]) -> str:
    """The text of parts; addresses and structures as text, files not at all."""
    return "".join(map(_text, parts))


def _text(part: Part) -> str:
    match part.WhichOneof("content"):
        case "text":
            return part.text
        case "url":
            return f"\n{part.filename or 'file'}: {part.url}\n"
        case "data":
            return f"\n{json.dumps(MessageToDict(part.data), ensure_ascii=False)}\n"
        case _:
            return ""


def _files(parts: Sequence[Part]) -> list[Media]:
    """The files in parts; pieces of one name in a row are one file."""
    found: list[Media] = []
    previous = ""
    for part in parts:
        if part.WhichOneof("content") != "raw":
            previous = ""
            continue
        if found and part.filename and part.filename == previous:
            last = found.pop()
            found.append(Media(last.name, last.content_type, last.data + part.raw))
        elif len(found) < A2A_FILES_MAX:
            kind = part.media_type or "application/octet-stream"
            found.append(Media(part.filename or "file", kind, part.raw))
            previous = part.filename
    return found
