"""Conversations and who takes part in them."""

from dataclasses import dataclass
from typing import Literal

from angarium.ids import ConversationId, UserId

Role = Literal["person", "agent", "bridge"]


@dataclass(frozen=True, slots=True)
class Participant:
    """A user in a conversation. `role` tells clients whom they write to."""

    user: UserId
    role: Role


@dataclass(frozen=True, slots=True)
class Conversation:
    """An ordered log of messages among participants.

    `epoch` changes only when the log was restored to another history; cursors of another epoch
    are void. `roster_version` grows when a participant or a participant's device changes.
    """

    id: ConversationId
    epoch: int
    participants: tuple[Participant, ...]
    created_ms: int

    def has(self, user: UserId) -> bool:
        return any(participant.user == user for participant in self.participants)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest sequence of a conversation, and the oldest one kept."""

    epoch: int
    sequence: int
    floor: int = 1
