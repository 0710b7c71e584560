"""What a message does that comes while a turn of its conversation is open.

By the agent's terms it joins the turn, waits for its own, ends it, or is turned away; `/stop`
ends it whatever the terms say.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from angarium.agents.attempt import Joined, Stopped
from angarium.agents.contract import AgentKind
from angarium.agents.guard import CANCELLED, STILL_BUSY, Admit, check_inbound
from angarium.agents.ledger import Extra, Journal
from angarium.agents.memory import after_exchange
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.replies import Replies
from angarium.errors import TooLarge, Untrusted
from angarium.ids import ConversationId, UserId
from angarium.limits import BURST_MESSAGES_MAX, TURN_TEXT_CHARS_MAX
from angarium.storage.contract import PutTurn, Turn, Write

Behind = Callable[[ConversationId], Sequence[int]]
STOP = "/stop"
STOPPED = "Stopped."
NOTHING_RUNS = "There is nothing to stop."


def is_stop(text: str) -> bool:
    """Whether a message asks for the running turn to end."""
    return text.strip().lower() == STOP


class Burst:
    """The messages behind one open turn; each is looked at once.

    `fixed`: what the turn has said or done cannot be taken back, so that nothing joins it.
    `grew`: something has joined it, and nobody has waited for more since.
    """

    def __init__(self, desk: Desk, replies: Replies, admit: Admit, turn: OpenTurn) -> None:
        self._desk, self._replies, self._admit = desk, replies, admit
        self._turn = turn
        self._looked = turn.record.sequence
        self._blocked = False
        self._waiting: list[Turn] = []
        self.grew = False
        # An attempt that nobody knows the end of may have done anything.
        began = turn.record.attempts > 0
        self.fixed = began or bool(turn.journal.calls or turn.journal.questions)

    async def look(self, agent: AgentKind, behind: Sequence[int]) -> Joined | Stopped | None:
        """What the messages not looked at so far mean for the turn. Raises what the store
        raises; they are looked at again then."""
        joining: list[OpenTurn] = []
        for sequence in behind:
            if sequence <= self._looked:
                continue
            newcomer = await self._open(sequence)
            if newcomer is not None:
                if is_stop(newcomer.heard.body.text):
                    return Stopped(newcomer, STOP)
                verdict = await self._meet(agent, newcomer, joining)
                if verdict is not None:
                    return verdict
            else:
                self._blocked = True
            self._looked = sequence
        return Joined(tuple(joining)) if joining else None

    async def _meet(
        self, agent: AgentKind, newcomer: OpenTurn, joining: list[OpenTurn]
    ) -> Stopped | None:
        """Let it join, wait, or be turned away; Stopped where it ends the turn."""
        how = agent.terms.on_busy
        if self._blocked or not self._is_plain(newcomer):
            how = "enqueue"
        if how == "interrupt":
            return Stopped(newcomer, f"interrupted by {newcomer.record.sequence}")
        if how == "reject":
            await self._replies.apologise(newcomer, STILL_BUSY, state="cancelled")
        elif how == "merge" and not self.fixed and self._has_room(newcomer, joining):
            joining.append(newcomer)
        else:
            self._blocked = True
            self._waiting.append(newcomer.record)
        return None

    async def _open(self, sequence: int) -> OpenTurn | None:
        """The message, where it is one of the same person that nobody has begun with."""
        turn = self._turn
        record = await self._desk.turns.find(turn.record.conversation, sequence)
        if record is None or record.state != "offered":
            return None
        try:
            heard = self._desk.seals.open_heard(record)
        except (Untrusted, msgspec.DecodeError):
            return None
        if heard.problem or heard.sender != turn.heard.sender:
            return None
        return OpenTurn(record, heard, Journal(), turn.notes, turn.person)

    def _is_plain(self, newcomer: OpenTurn) -> bool:
        """No command, no mention, no answer to a question, and within the bounds."""
        body, ours = newcomer.heard.body, self._turn.heard.body
        if body.text.lstrip().startswith(("/", "@")) or self._turn.notes.route.pending:
            return False
        if (body.agent and body.agent != ours.agent) or body.via != ours.via:
            return False
        return check_inbound(body.text, UserId(newcomer.heard.sender), self._admit) is None

    def _has_room(self, newcomer: OpenTurn, joining: list[OpenTurn]) -> bool:
        texts = [self._turn.text, *(one.text for one in joining), newcomer.text]
        count = 1 + len(self._turn.journal.joined) + len(joining)
        return count < BURST_MESSAGES_MAX and sum(map(len, texts)) < TURN_TEXT_CHARS_MAX

    async def join(self, newcomers: Sequence[OpenTurn]) -> None:
        """They are one turn now; durable when this returns. Where the turn's journal is full,
        they wait for their own."""
        turn = self._turn
        journal = turn.journal.with_joined([_extra(newcomer) for newcomer in newcomers])
        try:
            progress = self._desk.seals.seal_journal(turn.record, journal)
        except TooLarge:
            self._blocked = True
            self._waiting += [newcomer.record for newcomer in newcomers]
            return
        # The attempt that was given up for this is none that failed.
        attempts = max(0, turn.record.attempts - 1)
        now_ms = self._desk.clock.now_ms()
        record = replace(turn.record, attempts=attempts, progress=progress, updated_ms=now_ms)
        await self._desk.write(
            PutTurn(record),
            *(self._put_joined(newcomer.record) for newcomer in newcomers),
        )
        turn.record, turn.journal, self.grew = record, journal, True
        for newcomer in newcomers:
            place = newcomer.record.conversation, newcomer.record.sequence
            self._desk.endpoint.mark_read(*place)

    async def heal(self) -> None:
        """Close what joined or answered this turn in a write that came only half through
        (stores without transactions)."""
        turn, journal = self._turn, self._turn.journal
        joined = [extra.sequence for extra in journal.joined]
        for sequence in (*joined, *journal.answers):
            record = await self._desk.turns.find(turn.record.conversation, sequence)
            if record is None or record.state != "offered":
                continue
            if sequence in journal.answers:
                reason = f"answers {turn.record.sequence}"
                closed = PutTurn(self._replies.final(record, "replied", reason))
            else:
                closed = self._put_joined(record)
            await self._desk.write(closed)

    def _put_joined(self, record: Turn) -> PutTurn:
        return PutTurn(
            self._replies.final(record, "merged", f"joined {self._turn.record.sequence}")
        )

    async def end(self, stopped: Stopped) -> None:
        """Close the turn without an answer. What waited before a `/stop` ends with it."""
        turn, by = self._turn, stopped.by
        closed = self._replies.final(turn.record, "cancelled", stopped.reason)
        ended: list[Write] = [PutTurn(closed)]
        if by is not None and stopped.reason == STOP:
            ended += [
                PutTurn(self._replies.final(record, "cancelled", STOP))
                for record in self._waiting
            ]
            await self._replies.finish(by, STOPPED, reason=STOP, also=ended)
        elif by is None:
            await self._replies.apologise(turn, CANCELLED, state="cancelled")
        else:
            # The next answer may need to know what was asked before.
            agent = turn.record.agent
            memory = turn.notes.memory(agent)
            kept = after_exchange(memory, memory.kept, [("user", turn.text)])
            await self._desk.write(
                *ended, *self._desk.notebook.put_memory(turn.notes, agent, kept)
            )


def _extra(newcomer: OpenTurn) -> Extra:
    heard, record = newcomer.heard, newcomer.record
    return Extra(
        sequence=record.sequence,
        key=heard.key,
        text=heard.body.text,
        files=heard.body.files,
        stream=heard.stream,
        heard_ms=record.created_ms,
    )
