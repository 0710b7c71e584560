"""What an attempt starts from and what it leaves: memories, history, exchanges to recall."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from angarium.agents.memory import Memory, after_exchange
from angarium.agents.recall import new_exchange
from angarium.agents.records import Desk, OpenTurn
from angarium.storage.contract import Write

Said = Sequence[tuple[str, str]]


@dataclass(slots=True)
class Starting:
    """Copies for one attempt; it may change `memory` and `person_memory` as it likes."""

    agent: str
    before: Memory
    person_before: dict[str, Any]
    memory: dict[str, Any]
    person_memory: dict[str, Any]
    forgotten: int

    @property
    def history(self) -> tuple[tuple[str, str], ...]:
        return tuple((role, text) for role, text in self.before.history)


def starting(turn: OpenTurn, agent: str) -> Starting:
    """What `agent` remembers as an attempt of this turn begins."""
    return Starting(
        agent=agent,
        before=turn.notes.memory(agent),
        person_before=turn.person.memory(agent),
        memory=turn.notes.memory(agent).kept,
        person_memory=turn.person.memory(agent),
        forgotten=turn.person.forgotten,
    )


def left(desk: Desk, turn: OpenTurn, start: Starting, said: Said) -> list[Write]:
    """The writes that keep what an answered attempt leaves; to be made with its reply.

    Nothing of the person is kept where the person was forgotten meanwhile. Raises TooLarge, and
    TypeError for values that are not plain.
    """
    if turn.person.forgotten != start.forgotten:
        return []
    agent, people = start.agent, desk.people
    memory = after_exchange(start.before, start.memory, said)
    exchange = new_exchange(said, desk.clock.now_ms(), turn.record.conversation)
    return [
        *desk.notebook.put_memory(turn.notes, agent, memory),
        *people.change_memory(turn.person, agent, start.person_before, start.person_memory),
        *people.keep_exchange(turn.person, agent, exchange),
    ]
