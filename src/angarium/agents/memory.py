"""What is remembered of a conversation between turns, sealed in the vault.

One record says who has the conversation; one per agent holds its memory and the last exchanges,
sealed under the conversation's own key. They are written in the same write as the reply they
belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from angarium.agents.own_keys import OwnKey, read_owned
from angarium.errors import TooLarge
from angarium.ids import ConversationId
from angarium.kms.contract import Sealer
from angarium.limits import (
    HISTORY_CHARS_MAX,
    HISTORY_EXCHANGES_MAX,
    LANGUAGES_KEPT_MAX,
    MEMORY_BYTES_MAX,
    PARTICIPANTS_MAX,
)
from angarium.storage.contract import DropRecord, PutRecord, Vault


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who has the conversation. `pending`: sequences of turns that wait for an answer, the
    newest last. `unread_ms`: when the person was last told that a message could not be read.

    `human` is the operator who has taken the conversation over, or ANYBODY while one is waited
    for: agents are silent then.
    """

    agent: str = ""
    pending: tuple[int, ...] = ()
    disclosed: bool = False  # The person was told that an AI agent answers.
    unread_ms: int = 0
    people: tuple[str, ...] = ()  # Who has written here, so that each can be forgotten.
    languages: tuple[tuple[str, str], ...] = ()  # Of each who has written here, the code.
    human: str = ""
    human_name: str = ""
    human_since_ms: int = 0
    human_active_ms: int = 0  # When the operator, or whoever waits for one, last wrote.

    def language_of(self, user: str) -> str:
        return dict(self.languages).get(user, "")

    def spoken_to_by(self, user: str, language: str = "") -> "Route":
        """`user` has written here, and in which language, where that is known."""
        if language and language != self.language_of(user):
            others = [pair for pair in self.languages if pair[0] != user]
            spoken = (*others[1 - LANGUAGES_KEPT_MAX :], (user, language))
            return msgspec.structs.replace(self, languages=spoken).spoken_to_by(user)
        if user in self.people:
            return self
        people = (*self.people[1 - PARTICIPANTS_MAX :], user)
        return msgspec.structs.replace(self, people=people)

    def asks(self, sequence: int, agent: str) -> "Route":
        """The turn `sequence` of `agent` waits for an answer now."""
        pending = (*(one for one in self.pending if one != sequence), sequence)
        return msgspec.structs.replace(self, agent=agent, pending=pending)

    def answered(self, sequence: int) -> "Route":
        """The turn `sequence` waits no longer."""
        pending = tuple(one for one in self.pending if one != sequence)
        return msgspec.structs.replace(self, pending=pending)


ANYBODY = "anybody"


class Memory(msgspec.Struct, omit_defaults=True):
    """Of one agent in one conversation. `history`: (role, text), oldest first."""

    kept: dict[str, Any] = {}
    history: list[tuple[str, str]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode_route = msgspec.msgpack.Decoder(Route).decode
_decode_memory = msgspec.msgpack.Decoder(Memory).decode


@dataclass(slots=True)
class Notes:
    """All that is remembered of one conversation."""

    conversation: ConversationId
    key: OwnKey
    route: Route = field(default_factory=Route)
    memories: dict[str, Memory] = field(default_factory=dict)

    def memory(self, agent: str) -> Memory:
        """A copy: what an attempt changes counts only once its reply is written."""
        found = self.memories.get(agent)
        return _decode_memory(_encode(found)) if found else Memory()


def after_exchange(
    memory: Memory, kept: dict[str, Any], said: Sequence[tuple[str, str]]
) -> Memory:
    """The memory after a turn in which `said` was exchanged."""
    cut = [(role, text[:HISTORY_CHARS_MAX]) for role, text in said if text]
    history = [*memory.history, *cut][-2 * HISTORY_EXCHANGES_MAX :]
    return Memory(kept=kept, history=history)


class Notebook:
    """Reads the notes of conversations and makes the writes that change them."""

    def __init__(self, vault: Vault, sealer: Sealer, scope: str) -> None:
        self._vault, self._sealer, self._scope = vault, sealer, scope

    async def load(self, conversation: ConversationId) -> Notes:
        """Raises SealBroken for a record of another key or place."""
        key, records = await read_owned(self._vault, self._sealer, self._scope, conversation)
        notes = Notes(conversation, key)
        for record in records:
            kind, _, agent = record.key.partition("/")[2].partition("/")
            if kind == "route":
                plain = self._sealer.unseal(record.blob, f"{self._scope}/{record.key}")
                notes.route = _decode_route(plain)
            elif kind == "memory":
                notes.memories[agent] = _decode_memory(key.open(self._scope, record))
        return notes

    def put_route(self, conversation: ConversationId, route: Route) -> PutRecord:
        key = f"{conversation}/route"
        sealed = self._sealer.seal(_encode(route), f"{self._scope}/{key}")
        return PutRecord(self._scope, key, sealed)

    def put_memory(self, notes: Notes, agent: str, memory: Memory) -> list[PutRecord]:
        """Raises TooLarge, and TypeError for values that are not plain."""
        packed = _encode(memory)
        if len(_encode(memory.kept)) > MEMORY_BYTES_MAX:
            raise TooLarge(f"turn.memory of {agent!r} is over {MEMORY_BYTES_MAX} bytes")
        return notes.key.put(f"{notes.conversation}/memory/{agent}", packed)

    def forget(self, notes: Notes) -> list[DropRecord]:
        """Drops the conversation's key and every agent's memory of it; `notes` have none."""
        drops = [
            notes.key.drop(),
            *(
                DropRecord(self._scope, f"{notes.conversation}/memory/{agent}")
                for agent in notes.memories
            ),
        ]
        notes.key.renew()
        notes.memories.clear()
        return drops
