"""How a turn ends or pauses: each is one write, together with the message that says so."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from angarium.agents.guard import TOO_MANY_OPEN, Trouble, cut_reply
from angarium.agents.ledger import Question
from angarium.agents.memory import Route
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.sentences import AI_DISCLOSURE, say
from angarium.agents.spend import Spend
from angarium.e2ee.body import Body, FileRef
from angarium.errors import Forbidden, NotFound, NotMember, TooLarge, Unavailable, Untrusted
from angarium.ids import MessageKey, reply_key
from angarium.limits import (
    QUESTIONS_PENDING_MAX,
    REPLY_BYTES_MAX,
    STORE_RETRY_MAX_S,
    TURN_RETRY_MIN_S,
)
from angarium.storage.contract import TURN_FINAL, PutTurn, Turn, TurnState, Write

_log = logging.getLogger(__name__)
SEAL_BROKEN = "seal_broken"
DISCLOSURE = say(AI_DISCLOSURE)


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Who is told that an AI agent answers: people on channels, or `everybody`; and in which
    words, where those of the product in seven languages are not wanted."""

    everybody: bool = False
    text: str = ""


ON_CHANNELS = Disclosure()


class Replies:
    """Writes replies, questions and apologies. Every key follows from (conversation, sequence,
    agent, part), so a repetition after a crash is the same message and not a second one.

    Reply and apology share a part: a message never gets both, but by an operator's replay.
    """

    def __init__(self, desk: Desk, spend: Spend, disclosure: Disclosure = ON_CHANNELS) -> None:
        self._desk, self._spend, self._disclosure = desk, spend, disclosure

    async def finish(
        self,
        turn: OpenTurn,
        text: str,
        *,
        agent: str = "",
        state: TurnState = "replied",
        reason: str = "",
        route: Route | None = None,
        also: Sequence[Write] = (),
        files: Sequence[FileRef] = (),
    ) -> None:
        """Answer with `text` and `files` and close the turn; without both only close it.

        Raises Fenced, Unavailable and what Endpoint.submit raises.
        """
        final = self.final(turn.record, state, reason or turn.record.reason)
        route = turn.notes.route if route is None else route
        route = route.answered(turn.record.sequence)
        if agent:
            route = route.spoken_to_by(turn.heard.sender, turn.journal.language)
        text, route = self._disclose(turn, text, route)
        writes = [
            PutTurn(final),
            *also,
            *self._route_writes(turn, route),
            *self._account_writes(turn, route),
            *self._spend.writes(turn),
        ]
        if not (text or files):
            await self._desk.write(*writes)
        else:
            body = Body(text=text, agent=agent, ref=turn.ref, refs=turn.refs, files=list(files))
            await self._submit(turn, body, turn.journal.reply_part, writes)
        turn.record, turn.notes.route = final, route
        turn.person.account.disclosed |= route.disclosed

    async def ask(self, turn: OpenTurn, question: Question) -> None:
        """Send the question and let the turn wait, in one write. Where too many questions are
        open already, the turn fails with an apology."""
        record = turn.record
        if len(turn.notes.route.pending) >= QUESTIONS_PENDING_MAX:
            await self.apologise(turn, TOO_MANY_OPEN)
            return
        waiting = replace(
            record,
            state="waiting",
            progress=self._desk.seals.seal_journal(record, turn.journal),
            updated_ms=self._desk.clock.now_ms(),
        )
        route = turn.notes.route.asks(record.sequence, record.agent)
        route = route.spoken_to_by(turn.heard.sender, turn.journal.language)
        text, route = self._disclose(turn, question.text, route)
        body = Body(
            type="question",
            text=text,
            agent=record.agent,
            ref=turn.ref,
            refs=turn.refs,
            options=question.options,
        )
        writes = [
            PutTurn(waiting),
            *self._route_writes(turn, route),
            *self._account_writes(turn, route),
            *self._spend.writes(turn),
        ]
        await self._submit(turn, body, question.part, writes)
        turn.record, turn.notes.route = waiting, route
        turn.person.account.disclosed |= route.disclosed

    async def apologise(
        self, turn: OpenTurn, trouble: Trouble, state: TurnState = "failed"
    ) -> None:
        """The turn has failed, or is not begun; say so. Where nothing can be said in this
        conversation it ends in silence; where the device itself cannot speak, that is raised
        and the turn is open.
        """
        agent = turn.record.agent
        try:
            await self.finish(
                turn, trouble.sentence, agent=agent, state=state, reason=trouble.code
            )
        except (Forbidden, NotFound, NotMember, TooLarge, Untrusted) as error:
            if self._desk.endpoint.error is not None:
                raise
            reason = f"{trouble.code}, then {error.code}"
            await self.drop(turn.record, state, reason)

    async def drop(self, record: Turn, state: TurnState, reason: str) -> None:
        """Close the turn without a word."""
        await self._desk.write(PutTurn(self.final(record, state, reason)))

    def final(self, record: Turn, state: TurnState, reason: str) -> Turn:
        """The record of a turn that has ended like this.

        The text has served, and goes; but what failed stays, sealed, to be replayed, until it
        is buried.
        """
        dead = state == "failed" and reason != SEAL_BROKEN
        return replace(
            record,
            state=state,
            reason=reason,
            body=record.body if dead else b"",
            progress=record.progress if dead else b"",
            updated_ms=self._desk.clock.now_ms(),
        )

    def _disclose(self, turn: OpenTurn, text: str, route: Route) -> tuple[str, Route]:
        """People are told once, with the first message, what they talk to: on channels in each
        conversation, in the app once, where everybody is to be told."""
        on_channel = bool(turn.heard.body.via)
        told_before = route.disclosed or (turn.person.account.disclosed and not on_channel)
        if not text or told_before or not (on_channel or self._disclosure.everybody):
            return cut_reply(text), route
        sentence = self._disclosure.text or say(AI_DISCLOSURE, turn.language)
        room = REPLY_BYTES_MAX - len(sentence.encode()) - 2
        told = msgspec.structs.replace(route, disclosed=True)
        return f"{sentence}\n\n{cut_reply(text, room)}", told

    def _account_writes(self, turn: OpenTurn, route: Route) -> list[Write]:
        """That the person was told, where this message tells it."""
        if not route.disclosed or turn.person.account.disclosed:
            return []
        told = msgspec.structs.replace(turn.person.account, disclosed=True)
        return [self._desk.people.put_account(turn.person, told)]

    def _route_writes(self, turn: OpenTurn, route: Route) -> list[Write]:
        if route == turn.notes.route:
            return []
        conversation = turn.record.conversation
        writes: list[Write] = [self._desk.notebook.put_route(conversation, route)]
        if turn.heard.sender not in turn.notes.route.people:
            writes.append(self._desk.people.put_place(turn.heard.sender, conversation))
        return writes

    async def _submit(
        self, turn: OpenTurn, body: Body, part: int, writes: Sequence[Write]
    ) -> None:
        record, desk = turn.record, self._desk
        if not desk.journal:
            await desk.endpoint.submit(record.conversation, body)
            await desk.write(*writes)
            return
        key = reply_key(record.conversation, record.sequence, body.agent, part)
        await self._submit_patiently(record, body, key, writes)
        if record.attempts != 1:  # Not the first time, or what is not counted.
            await self._settle(record, writes)

    async def _submit_patiently(
        self, record: Turn, body: Body, key: MessageKey, writes: Sequence[Write]
    ) -> None:
        """Until the device can seal it (keys may have to be fetched) or is closed: an answer
        is not computed again because the way out was shut for a while."""
        pause_s = TURN_RETRY_MIN_S
        while True:
            try:
                await self._desk.endpoint.submit(
                    record.conversation, body, key=key, also=writes
                )
                return
            except Unavailable as error:
                _log.warning("an answer waits to be sealed: %s", error.code)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, STORE_RETRY_MAX_S)

    async def _settle(self, record: Turn, writes: Sequence[Write]) -> None:
        """A key submitted before changes nothing, so an earlier attempt whose write came only
        half through (stores without transactions) left the turn open: close it now."""
        stored = await self._desk.turns.find(record.conversation, record.sequence)
        if stored is not None and stored.state not in {*TURN_FINAL, "waiting"}:
            await self._desk.write(*writes)
