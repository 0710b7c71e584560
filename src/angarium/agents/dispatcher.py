"""Opens a turn, decides who answers, and lets them."""

from dataclasses import replace

import msgspec

from angarium.agents.guard import BROKEN, Admit, check_inbound
from angarium.agents.memory import Route
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.registry import Registry
from angarium.agents.replies import Replies
from angarium.agents.router import (
    ListAgents,
    Reset,
    Switch,
    ToAgent,
    ToQuestion,
    read_answer,
    route,
)
from angarium.agents.turns import TurnRunner
from angarium.errors import Untrusted
from angarium.ids import ConversationId, UserId
from angarium.limits import QUESTION_KEPT_S, TURN_STALE_S
from angarium.storage.contract import TURN_FINAL, PutTurn, Turn, Write

RESET_DONE = "Done. I have forgotten this conversation; ask me anything."


class Dispatcher:
    """`run` works one turn off; safe to call again for the same turn, whatever happened."""

    def __init__(
        self, desk: Desk, replies: Replies, runner: TurnRunner, registry: Registry, admit: Admit
    ) -> None:
        self._desk, self._replies, self._runner = desk, replies, runner
        self._registry, self._admit = registry, admit

    async def run(self, conversation: ConversationId, sequence: int) -> None:
        """Raises Fenced, Unavailable and what Endpoint.submit raises; the turn is open then."""
        record = await self._desk.turns.find(conversation, sequence)
        if record is None or record.state == "waiting" or record.state in TURN_FINAL:
            return
        turn = await self._open(record)
        if turn is None:
            return
        if self._desk.clock.now_ms() - turn.heard_ms > TURN_STALE_S * 1000:
            await self._replies.drop(record, "expired", "stale")
        elif record.state == "running":
            await self._runner.run(turn)
        else:
            await self._begin(turn)

    async def give_up(self, conversation: ConversationId, sequence: int) -> None:
        """The gateway itself failed at this turn: end it with an apology."""
        record = await self._desk.turns.find(conversation, sequence)
        if record is None or record.state in TURN_FINAL:
            return
        turn = await self._open(record)
        if turn is not None:
            await self._replies.apologise(turn, BROKEN)

    async def _open(self, record: Turn) -> OpenTurn | None:
        """The turn with its seals opened; None (and failed) where they do not open."""
        try:
            heard = self._desk.seals.open_heard(record)
            journal = self._desk.seals.open_journal(record)
            notes = await self._desk.notebook.load(record.conversation)
        except (Untrusted, msgspec.DecodeError):
            await self._replies.drop(record, "failed", "seal_broken")
            return None
        return OpenTurn(record, heard, journal, notes)

    async def _begin(self, turn: OpenTurn) -> None:
        body = turn.heard.body
        self._desk.endpoint.mark_read(turn.record.conversation, turn.record.sequence)
        trouble = check_inbound(body.text, UserId(turn.heard.sender), self._admit)
        if trouble is not None:
            await self._replies.finish(turn, trouble.sentence, reason=trouble.code)
            return
        asked = await self._pending(turn)
        decision = route(
            body.text,
            agents=self._registry.names,
            default=self._registry.default,
            sticky=turn.notes.route.agent,
            addressed=body.agent,
            pending=asked is not None,
        )
        match decision:
            case ToAgent(agent, text, reason):
                turn.record = replace(turn.record, agent=agent, reason=reason)
                turn.journal.text = text if text != body.text else None
                await self._runner.run(turn)
            case ToQuestion():
                if asked is not None:
                    await self._answer(turn, asked)
            case Switch(agent, reason):
                await self._switch(turn, agent, reason)
            case ListAgents(reason):
                await self._replies.finish(turn, self._list_agents(), reason=reason)
            case Reset(reason):
                await self._reset(turn, asked, reason)

    async def _pending(self, turn: OpenTurn) -> OpenTurn | None:
        """The turn whose question is open in this conversation."""
        waiting = turn.notes.route.waiting
        record = (
            await self._desk.turns.find(turn.record.conversation, waiting) if waiting else None
        )
        if record is None or record.state != "waiting":
            return None
        asked = await self._open(record)
        if asked is None or asked.journal.open_question() is None:
            return None
        if turn.record.created_ms - record.updated_ms > QUESTION_KEPT_S * 1000:
            await self._replies.drop(record, "expired", "no answer")
            return None
        return asked

    async def _answer(self, turn: OpenTurn, asked: OpenTurn) -> None:
        """Give the message to the waiting turn as its answer: both change in one write."""
        question = asked.journal.open_question()
        if question is None:
            return
        question.answer = read_answer(turn.heard.body.text, question.options)
        asked.journal.ref, asked.journal.stream = turn.heard.key, turn.heard.stream
        asked.journal.heard_ms = turn.record.created_ms
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
        asked.notes.route = msgspec.structs.replace(turn.notes.route, waiting=0)
        put_route = self._desk.notebook.put_route(asked.record.conversation, asked.notes.route)
        await self._desk.write(PutTurn(asked.record), PutTurn(answering), put_route)
        await self._runner.run(asked)

    async def _switch(self, turn: OpenTurn, agent: str, reason: str) -> None:
        chosen = self._registry.find(agent)
        description = chosen.description if chosen else ""
        sticky = msgspec.structs.replace(turn.notes.route, agent=agent)
        text = f"You are now talking to @{agent}: {description}"
        await self._replies.finish(turn, text, reason=reason, route=sticky)

    async def _reset(self, turn: OpenTurn, asked: OpenTurn | None, reason: str) -> None:
        also: list[Write] = [*self._desk.notebook.forget(turn.notes)]
        if asked is not None:
            dropped = replace(
                asked.record, state="expired", reason=reason, body=b"", progress=b""
            )
            also.append(PutTurn(dropped))
        fresh = Route(disclosed=turn.notes.route.disclosed)
        await self._replies.finish(turn, RESET_DONE, reason=reason, route=fresh, also=also)

    def _list_agents(self) -> str:
        lines = [f"@{agent.name}: {agent.description}" for agent in self._registry]
        return "\n".join(["These agents answer here:", *lines, "/reset starts anew."])
