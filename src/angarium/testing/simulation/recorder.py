"""The program behind a simulated device: it keeps what it was shown, notes what it is told."""

import hashlib
from collections.abc import Sequence

import msgspec

from angarium.sdk.contract import Happened, Received, Sink
from angarium.storage.contract import PutRecord, Record, Write
from angarium.testing.simulation.invariants import Shown


class Kept(msgspec.Struct, array_like=True):
    """One shown message as it lies in the device's storage. Holds no plaintext."""

    conversation: str
    sequence: int
    key: str
    user: str
    device: str
    digest: str
    problem: str
    refs: list[str]


def digest_of(text: str) -> str:
    """What stands for a text wherever plaintext must not be."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Recorder:
    """Implements `Sink`. `behind` is the program whose device this really is, if any.

    `told` gets one list of sequences per life and conversation.
    """

    def __init__(
        self, device: str, told: dict[str, list[list[int]]], behind: Sink | None = None
    ) -> None:
        self._scope, self._behind = scope_of(device), behind
        self._told = told
        self._life: dict[str, list[int]] = {}

    def plan(self, received: Received) -> Sequence[Write]:
        kept = Kept(
            received.conversation,
            received.sequence,
            received.key,
            received.sender,
            received.device,
            digest_of(received.body.text),
            received.problem,
            _refs(received),
        )
        name = f"{received.conversation}/{received.sequence:06d}"
        mine = PutRecord(self._scope, name, msgspec.msgpack.encode(kept))
        return (mine, *(self._behind.plan(received) if self._behind else ()))

    def committed(self, received: Received) -> None:
        life = self._life.get(received.conversation)
        if life is None:
            life = self._life[received.conversation] = []
            self._told.setdefault(received.conversation, []).append(life)
        life.append(received.sequence)
        if self._behind is not None:
            self._behind.committed(received)

    def happened(self, event: Happened) -> None:
        if self._behind is not None:
            self._behind.happened(event)


def _refs(received: Received) -> list[str]:
    """The keys of the messages that it answers, where it is an answer."""
    body = received.body
    return [body.ref, *body.refs] if body.type == "text" and body.ref else []


def scope_of(device: str) -> str:
    return f"shown/{device}"


def shown_of(records: Sequence[Record]) -> tuple[dict[str, list[Shown]], dict[str, set[str]]]:
    """What a device has shown, by conversation, and the answers among it: ref -> keys."""
    shown: dict[str, list[Shown]] = {}
    answers: dict[str, set[str]] = {}
    for record in records:
        kept = msgspec.msgpack.decode(record.blob, type=Kept)
        shown.setdefault(kept.conversation, []).append(
            Shown(kept.sequence, kept.key, kept.user, kept.device, kept.digest, kept.problem)
        )
        for ref in kept.refs:
            answers.setdefault(ref, set()).add(kept.key)
    return shown, answers
