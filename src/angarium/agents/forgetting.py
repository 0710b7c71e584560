"""`/forget`: what is remembered of a person is deleted, in every conversation.

What cannot be done in this lane, another conversation's memory, is put down as a control first,
so that a crash in between leaves nothing undone.
"""

from dataclasses import replace

import msgspec

from angarium.agents.controls import Control, Controls
from angarium.agents.memory import Notes, Route
from angarium.agents.records import Desk, OpenTurn
from angarium.errors import Untrusted
from angarium.ids import UserId, uuid7
from angarium.limits import DEAD_TURNS_MAX
from angarium.storage.contract import PutTurn, Turn, Write

FORGET = "/forget"


async def end_questions(
    desk: Desk, notes: Notes, reason: str, asked: UserId | None = None
) -> tuple[list[Write], Route]:
    """Writes that end the open questions (of one person, where `asked` is given), and the route
    without them."""
    ended: list[Write] = []
    route = notes.route
    for sequence in notes.route.pending:
        record = await desk.turns.find(notes.conversation, sequence)
        if record is not None and record.state == "waiting":
            if asked is not None and _sender(desk, record) not in {asked, ""}:
                continue
            ended.append(
                PutTurn(
                    replace(
                        record,
                        state="expired",
                        reason=reason,
                        body=b"",
                        progress=b"",
                        updated_ms=desk.clock.now_ms(),
                    )
                )
            )
        route = route.answered(sequence)
    return ended, route


def _sender(desk: Desk, record: Turn) -> str:
    try:
        return desk.seals.open_heard(record).sender
    except (Untrusted, msgspec.DecodeError):
        return ""  # Nobody can read it: it goes as well.


class Forgetting:
    """Deletes; what the person is told is said elsewhere."""

    def __init__(self, desk: Desk, controls: Controls) -> None:
        self._desk, self._controls = desk, controls

    async def person(self, turn: OpenTurn) -> tuple[list[Write], Route]:
        """Everything of the turn's person but this conversation, whose writes and new route are
        returned, to be made with the answer. Safe to repeat."""
        desk, person, here = self._desk, turn.person, turn.record.conversation
        now_ms = desk.clock.now_ms()
        for place in await desk.people.places(person.user):
            if place != here:
                control = Control("forget", by=person.user, at_ms=now_ms)
                await desk.write(self._controls.put(place, uuid7(now_ms), control))
        for batch in await desk.people.forget(person):
            await desk.write(*batch)
        await self._bury(person.user)
        return await self.conversation(turn.notes, person.user)

    async def _bury(self, user: UserId) -> None:
        """What the person wrote to turns that failed, kept to be replayed."""
        desk = self._desk
        for record in await desk.turns.list_recent(DEAD_TURNS_MAX, "failed"):
            if record.body and _sender(desk, record) == user:
                await desk.write(PutTurn(replace(record, body=b"", progress=b"")))

    async def conversation(self, notes: Notes, user: UserId) -> tuple[list[Write], Route]:
        """The agents' memory of it, and the questions that the person was asked."""
        ended, route = await end_questions(self._desk, notes, FORGET, user)
        drops = self._desk.notebook.forget(notes)
        return [*drops, *ended], msgspec.structs.replace(
            route,
            agent="",
            people=tuple(one for one in route.people if one != user),
            languages=tuple(pair for pair in route.languages if pair[0] != user),
        )
