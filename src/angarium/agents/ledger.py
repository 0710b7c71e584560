"""The journal of one turn: which tools were called, what was asked and answered. Pure.

It is saved sealed in the turn's record, so that an attempt after a crash, or after an answer,
continues with what the earlier ones did.
"""

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from angarium.agents.contract import Effect
from angarium.e2ee.body import FileRef
from angarium.errors import OutcomeUnknown, Refused, TooLarge
from angarium.limits import JOURNAL_BYTES_MAX, QUESTIONS_PER_TURN_MAX

_KEY_NAMESPACE = uuid.UUID("b0a9b8f4-5d0c-5d8e-8a56-0f4f1f6a3c11")
_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode_any = msgspec.msgpack.Decoder().decode


class Call(msgspec.Struct, omit_defaults=True):
    """One tool call. `result` is packed."""

    state: Literal["started", "done"]
    result: bytes = b""


class Question(msgspec.Struct, omit_defaults=True):
    """One question, and its answer once there is one. `part` numbers its message."""

    name: str
    text: str
    part: int
    options: list[str] = []
    asked_ms: int = 0
    answer: str | None = None


class Extra(msgspec.Struct, omit_defaults=True):
    """A message that joined the turn of an earlier one."""

    sequence: int
    key: str
    text: str
    files: list[FileRef] = []
    stream: bytes = b""
    heard_ms: int = 0


class KeptFile(msgspec.Struct):
    """Where a file of the reply lies and the key that opens it; `digest` tells its content."""

    digest: str
    blob: str
    key: bytes


class Journal(msgspec.Struct, omit_defaults=True):
    """`ref`, `stream`, `heard_ms`: key, parts key and time of the newest message answered."""

    calls: dict[str, Call] = {}
    questions: list[Question] = []
    kept: dict[str, bytes] = {}  # By agent and name: what an agent's next attempt needs.
    handoffs: int = 0
    declined: list[str] = []  # Agents that said "not mine".
    spent: int = 0  # Millionths of a dollar.
    preface: str = ""  # Why another agent answers than the one that was to.
    language: str = ""  # Of the text, where it tells.
    text: str | None = None  # What the agent is asked, where a mention was cut off.
    ref: str = ""
    stream: bytes = b""
    heard_ms: int = 0
    joined: list[Extra] = []  # In their order, after the turn's own message.
    files: list[KeptFile] = []
    replays: int = 0  # How often an operator had it begun again after it had failed.
    answers: list[int] = []  # Sequences of the messages that answered its questions.

    def with_joined(self, extras: Sequence[Extra]) -> "Journal":
        """A copy to which these were added. What an agent kept for its next attempt goes: that
        one is asked something else."""
        newest = extras[-1]
        return msgspec.structs.replace(
            self,
            joined=[*self.joined, *extras],
            kept={},
            ref=newest.key,
            stream=newest.stream,
            heard_ms=newest.heard_ms,
        )

    @property
    def reply_part(self) -> int:
        """The part of the reply or apology. That of a replay has another key than the apology
        before it; the parts of its questions follow."""
        return self.replays * (QUESTIONS_PER_TURN_MAX + 1)

    # --- questions --------------------------------------------------------------------------

    def find_question(self, name: str) -> Question | None:
        return next((asked for asked in self.questions if asked.name == name), None)

    def open_question(self) -> Question | None:
        return next((asked for asked in self.questions if asked.answer is None), None)

    def add_question(self, name: str, text: str, options: list[str], asked_ms: int) -> Question:
        """Raises Refused when the turn has asked too often."""
        if len(self.questions) >= QUESTIONS_PER_TURN_MAX:
            raise Refused(f"more than {QUESTIONS_PER_TURN_MAX} questions in one turn")
        part = self.reply_part + len(self.questions) + 1
        asked = Question(name, text, part, options, asked_ms)
        self.questions.append(asked)
        return asked

    # --- tools ------------------------------------------------------------------------------

    def begin(self, call: str, effect: Effect) -> Call | None:
        """The finished call, or None: run it now. Raises OutcomeUnknown for `once` again."""
        known = self.calls.get(call)
        if known and known.state == "done":
            return known
        if known and effect == "once":
            raise OutcomeUnknown("it was interrupted and may or may not have taken effect")
        self.calls[call] = Call("started")
        return None

    def finish(self, call: str, result: Any) -> Any:
        """Keep `result`; returns it as every later attempt will see it.

        Raises TypeError for a result that is not made of plain values.
        """
        packed = _encode(result)
        self.calls[call] = Call("done", packed)
        return _decode_any(packed)


def result_of(call: Call) -> Any:
    return _decode_any(call.result)


def call_name(agent: str, tool: str, arguments: tuple[Any, ...]) -> str:
    """What makes two calls of one turn the same call: agent, tool and canonical arguments.

    Raises TypeError for arguments that are not plain values.
    """
    digest = hashlib.sha256(_encode([agent, tool, list(arguments)])).hexdigest()
    return f"{tool}/{digest[:32]}"


def idempotency_key(conversation: str, sequence: int, call: str) -> str:
    """The key the other side of a tool sees: the same call of the same turn, the same key."""
    return str(uuid.uuid5(_KEY_NAMESPACE, f"{conversation}/{sequence}/{call}"))


def pack_journal(journal: Journal) -> bytes:
    """Raises TooLarge."""
    packed = _encode(journal)
    if len(packed) > JOURNAL_BYTES_MAX:
        raise TooLarge(f"the tool results of one turn are over {JOURNAL_BYTES_MAX} bytes")
    return packed


_decode = msgspec.msgpack.Decoder(Journal).decode


def unpack_journal(packed: bytes) -> Journal:
    """Raises msgspec.DecodeError for anything else."""
    return _decode(packed) if packed else Journal()
