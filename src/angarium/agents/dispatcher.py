"""Opens a turn, decides who answers, and lets them."""

import asyncio
from dataclasses import replace

import msgspec

from angarium.agents.attendant import Attendant
from angarium.agents.bursts import NOTHING_RUNS, STOP, STOPPED, is_stop
from angarium.agents.controls import LANE
from angarium.agents.guard import BROKEN, CANCELLED, UNREAD, Admit, check_inbound
from angarium.agents.ledger import Question
from angarium.agents.memory import Route
from angarium.agents.orders import TurnId, Verb, drop_order
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.registry import Registry
from angarium.agents.replies import SEAL_BROKEN, Replies
from angarium.agents.routing.router import Router
from angarium.agents.routing.rules import (
    Facts,
    ListAgents,
    Reset,
    Switch,
    ToAgent,
    ToHuman,
    ToQuestion,
    may_answer,
    read_answer,
)
from angarium.agents.turns import TurnRunner
from angarium.errors import NotFound, Untrusted
from angarium.ids import ConversationId, UserId, reply_key
from angarium.limits import QUESTION_KEPT_S, REPLAYS_MAX, TURN_STALE_S, UNREAD_TOLD_EVERY_S
from angarium.storage.contract import TURN_FINAL, PutTurn, Turn, TurnState, Write

RESET_DONE = "Done. I have forgotten this conversation; ask me anything."


class Dispatcher:
    """`run` works one turn off; safe to call again for the same turn, whatever happened."""

    def __init__(
        self,
        desk: Desk,
        replies: Replies,
        runner: TurnRunner,
        attendant: Attendant,
        registry: Registry,
        router: Router,
        admit: Admit,
    ) -> None:
        self._orders: dict[TurnId, Verb] = {}
        self._desk, self._replies, self._runner = desk, replies, runner
        self._attendant = attendant
        self._registry, self._router, self._admit = registry, router, admit

    async def run(self, conversation: ConversationId, sequence: int) -> int | None:
        """Returns the turn of this conversation that goes on next, where the message was its
        answer. Raises Fenced, Unavailable and what Endpoint.submit raises; the turn is open
        then."""
        if sequence == LANE:
            await self._attendant.attend(conversation)
            return None
        record = await self._desk.turns.find(conversation, sequence)
        verb = self._orders.pop((conversation, sequence), None)
        if verb is not None:
            record = await self._obey(verb, conversation, sequence, record)
        if record is None or record.state == "waiting" or record.state in TURN_FINAL:
            return None
        turn = await self._open(record)
        if turn is None:
            return None
        if self._desk.clock.now_ms() - turn.heard_ms > TURN_STALE_S * 1000:
            await self._replies.drop(record, "expired", "stale")
        elif record.state == "running":
            await self._runner.run(turn)
        else:
            return await self._begin(turn)
        return None

    def order(self, turn: TurnId, verb: Verb) -> None:
        """An operator asks for it: done when `run` comes to this turn."""
        self._orders[turn] = verb

    async def _obey(
        self, verb: Verb, conversation: ConversationId, sequence: int, record: Turn | None
    ) -> Turn | None:
        """Do what an operator asks, and say in the same write that it is done."""
        done = drop_order((conversation, sequence))
        if record is not None and verb == "replay" and record.state == "failed" and record.body:
            turn = await self._open(record)
            if turn is not None and turn.journal.replays < REPLAYS_MAX:
                turn.journal.replays += 1
                turn.journal.heard_ms = self._desk.clock.now_ms()
                again = replace(
                    record,
                    state="running" if record.agent else "offered",
                    attempts=0,
                    progress=self._desk.seals.seal_journal(record, turn.journal),
                    reason="replayed",
                    updated_ms=self._desk.clock.now_ms(),
                )
                await self._desk.write(PutTurn(again), done)
                return again
        elif record is not None and verb == "cancel" and record.state not in TURN_FINAL:
            turn = await self._open(record)
            if turn is not None:
                await self._replies.apologise(turn, CANCELLED, state="cancelled")
        await self._desk.write(done)
        return await self._desk.turns.find(conversation, sequence)

    async def give_up(self, conversation: ConversationId, sequence: int) -> None:
        """The gateway itself failed at this turn: end it with an apology."""
        record = await self._desk.turns.find(conversation, sequence)
        if record is None or record.state == "waiting" or record.state in TURN_FINAL:
            return
        turn = await self._open(record)
        if turn is not None:
            await self._replies.apologise(turn, BROKEN)

    async def _open(self, record: Turn) -> OpenTurn | None:
        """The turn with its seals opened; None (and failed) where they do not open."""
        try:
            heard = self._desk.seals.open_heard(record)
            journal = self._desk.seals.open_journal(record)
            notes, person = await asyncio.gather(
                self._desk.notebook.load(record.conversation),
                self._desk.people.load(UserId(heard.sender)),
            )
        except (Untrusted, msgspec.DecodeError):
            await self._replies.drop(record, "failed", SEAL_BROKEN)
            return None
        return OpenTurn(record, heard, journal, notes, person)

    async def _begin(self, turn: OpenTurn) -> int | None:
        if await self._attendant.take(turn):
            return None
        if turn.heard.problem:
            await self._say_unread(turn)
            return None
        body = turn.heard.body
        self._desk.endpoint.mark_read(turn.record.conversation, turn.record.sequence)
        trouble = check_inbound(body.text, UserId(turn.heard.sender), self._admit)
        if trouble is not None:
            await self._replies.finish(turn, trouble.sentence, reason=trouble.code)
            return None
        if is_stop(body.text):
            await self._stop(turn)
            return None
        asked = await self._pending(turn)
        facts = Facts(
            sticky=turn.notes.route.agent,
            addressed=body.agent,
            pending=asked is not None,
            human=bool(turn.notes.route.human),
            channel=body.via or "app",
        )
        match await self._router.decide(body.text, facts):
            case ToHuman(reason):
                await self._replies.drop(turn.record, "replied", reason)
            case ToAgent(agent, text, reason):
                turn.record = replace(turn.record, agent=agent, reason=reason)
                turn.journal.text = text if text != body.text else None
                turn.journal.language = self._router.language(text, turn.language)
                await self._runner.run(turn)
            case ToQuestion():
                if asked is not None:
                    return await self._answer(turn, asked)
            case Switch(agent, reason):
                await self._switch(turn, agent, reason)
            case ListAgents(reason):
                await self._replies.finish(
                    turn, self._list_agents(facts.channel), reason=reason
                )
            case Reset(reason):
                await self._reset(turn, reason)
        return None

    async def _say_unread(self, turn: OpenTurn) -> None:
        """The message could not be opened: ask for it again, and not for each of many."""
        now_ms, route = self._desk.clock.now_ms(), turn.notes.route
        if 0 <= now_ms - route.unread_ms < UNREAD_TOLD_EVERY_S * 1000:
            await self._replies.drop(turn.record, "expired", UNREAD.code)
            return
        told = msgspec.structs.replace(route, unread_ms=now_ms)
        await self._replies.finish(turn, UNREAD.sentence, reason=UNREAD.code, route=told)

    async def _pending(self, turn: OpenTurn) -> OpenTurn | None:
        """The turn whose newest open question this message answers: of the same person, and
        stored before the message. What was written earlier cannot mean a question unseen."""
        for waiting in reversed(turn.notes.route.pending):
            record = await self._desk.turns.find(turn.record.conversation, waiting)
            if record is None or record.state != "waiting":
                continue
            asked = await self._open(record)
            question = asked.journal.open_question() if asked is not None else None
            if asked is None or question is None or asked.heard.sender != turn.heard.sender:
                continue
            if turn.record.created_ms - record.updated_ms > QUESTION_KEPT_S * 1000:
                await self._replies.drop(record, "expired", "no answer")
            elif await self._sequence_of(asked.record, question) < turn.record.sequence:
                return asked
        return None

    async def _sequence_of(self, asked: Turn, question: Question) -> int:
        """Where the question stands in the conversation; waits until the relay has it."""
        key = reply_key(asked.conversation, asked.sequence, asked.agent, question.part)
        try:
            return (await self._desk.endpoint.sent(key)).sequence
        except NotFound:
            return 0  # Long ago: the device no longer knows where.

    async def _answer(self, turn: OpenTurn, asked: OpenTurn) -> int | None:
        """Give the message to the waiting turn as its answer: both change in one write."""
        question = asked.journal.open_question()
        if question is None:
            return None
        question.answer = read_answer(turn.heard.body.text, question.options)
        asked.journal.ref, asked.journal.stream = turn.heard.key, turn.heard.stream
        asked.journal.heard_ms = turn.record.created_ms
        asked.journal.answers.append(turn.record.sequence)
        now_ms = self._desk.clock.now_ms()
        asked.record = replace(
            asked.record,
            state="running",
            attempts=0,
            progress=self._desk.seals.seal_journal(asked.record, asked.journal),
            updated_ms=now_ms,
        )
        answering = replace(
            turn.record,
            state="replied",
            reason=f"answers {asked.record.sequence}",
            agent=asked.record.agent,
            body=b"",
            progress=b"",
            updated_ms=now_ms,
        )
        route = turn.notes.route.answered(asked.record.sequence)
        put_route = self._desk.notebook.put_route(asked.record.conversation, route)
        await self._desk.write(PutTurn(asked.record), PutTurn(answering), put_route)
        return asked.record.sequence

    async def _switch(self, turn: OpenTurn, agent: str, reason: str) -> None:
        chosen = self._registry.find(agent)
        description = chosen.description if chosen else ""
        sticky = msgspec.structs.replace(turn.notes.route, agent=agent)
        text = f"You are now talking to @{agent}: {description}"
        await self._replies.finish(turn, text, reason=reason, route=sticky)

    async def _stop(self, turn: OpenTurn) -> None:
        """Nothing runs, or the turn that ran would have seen it; questions may be open."""
        ended = await self._end_questions(turn, "cancelled", STOP)
        old = turn.notes.route
        fresh = msgspec.structs.replace(old, pending=())
        said = STOPPED if ended else NOTHING_RUNS
        await self._replies.finish(turn, said, reason=STOP, route=fresh, also=ended)

    async def _end_questions(
        self, turn: OpenTurn, state: TurnState, reason: str
    ) -> list[Write]:
        ended: list[Write] = []
        for waiting in turn.notes.route.pending:
            asked = await self._desk.turns.find(turn.record.conversation, waiting)
            if asked is not None and asked.state == "waiting":
                ended.append(PutTurn(self._replies.final(asked, state, reason)))
        return ended

    async def _reset(self, turn: OpenTurn, reason: str) -> None:
        also: list[Write] = [*self._desk.notebook.forget(turn.notes)]
        also += await self._end_questions(turn, "expired", reason)
        old = turn.notes.route
        fresh = Route(disclosed=old.disclosed, unread_ms=old.unread_ms)
        await self._replies.finish(turn, RESET_DONE, reason=reason, route=fresh, also=also)

    def _list_agents(self, channel: str) -> str:
        here = [agent for agent in self._registry if may_answer(agent, channel)]
        lines = [f"@{agent.name}: {agent.description}" for agent in here]
        return "\n".join(["These agents answer here:", *lines, "/reset starts anew."])
