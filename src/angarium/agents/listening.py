"""Lets an agent run, and gathers what it says, sends and uses."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from angarium.agents.attempt import Answered, Attempt, Outcome, Passed
from angarium.agents.contract import (
    AgentEvent,
    AgentKind,
    Attachment,
    Done,
    Handoff,
    Media,
    Person,
    Status,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)
from angarium.agents.draft import Draft
from angarium.agents.guard import cut_reply
from angarium.agents.keeping import Starting, left, starting
from angarium.agents.media import Files, ReplyFiles
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.reply_guard import guard_reply
from angarium.agents.spend import Spend
from angarium.agents.tools import LiveTools
from angarium.agents.trace import Trace
from angarium.agents.ward import Ward
from angarium.e2ee.body import FileRef
from angarium.ids import ConversationId

_log = logging.getLogger(__name__)


class Listener:
    """Of all turns of one gateway."""

    def __init__(self, desk: Desk, ward: Ward, spend: Spend, files: Files) -> None:
        self._desk, self._ward, self._spend, self._files = desk, ward, spend, files

    async def listen(
        self,
        turn: OpenTurn,
        agent: AgentKind,
        attempt: Attempt,
        draft: Draft,
        tools: LiveTools,
    ) -> Outcome:
        """Let the agent run to its end; what it said, or whom it passes the turn to. Raises
        what the agent raises."""
        start = starting(turn, agent.name)

        def begin() -> AsyncIterator[AgentEvent]:
            nonlocal start
            start = starting(turn, agent.name)
            tools.begin()
            run = agent.run(self._live(turn, tools, start))
            return self._spend.metered(turn, agent, run)

        if turn.journal.preface:
            draft.add(turn.journal.preface + "\n\n")
        files = ReplyFiles(turn, tools, self._files)
        trace = Trace(turn.record.trace)
        try:
            passed = await _follow(self._ward.run(agent, begin), draft, attempt, files, trace)
        finally:
            turn.record = replace(turn.record, trace=trace.pack())
        if passed is not None:
            return Passed(passed, draft.text)
        text = cut_reply(_guarded(agent, draft.text))
        names = "".join(f"[{file.name}]" for file in files.refs)
        said = (("user", turn.text), *_asked(turn), ("agent", text or names))
        also = tuple(left(self._desk, turn, start, said))
        return Answered(text, also, tuple(files.refs))

    def _live(self, turn: OpenTurn, tools: LiveTools, start: Starting) -> Turn:
        body, record = turn.heard.body, turn.record
        return Turn(
            conversation=record.conversation,
            sequence=record.sequence,
            text=turn.text,
            person=Person(turn.heard.sender, body.name, body.via or "app", turn.language),
            agent=record.agent,
            attempt=record.attempts,
            tools=tools,
            attachments=tuple(
                self._attachment(record.conversation, file) for file in turn.files
            ),
            memory=start.memory,
            person_memory=start.person_memory,
            history=start.history,
        )

    def _attachment(self, conversation: ConversationId, file: FileRef) -> Attachment:
        async def read() -> bytes:
            return await self._files.read(conversation, file)

        return Attachment(file.name, file.content_type, file.size, read)


def _guarded(agent: AgentKind, text: str) -> str:
    guarded, count = guard_reply(text)
    if count:
        _log.warning("agent %s: %d secrets were taken out of a reply", agent.name, count)
    return guarded


async def _follow(
    events: AsyncGenerator[AgentEvent, None],
    draft: Draft,
    attempt: Attempt,
    files: ReplyFiles,
    trace: Trace,
) -> str | None:
    """Collect an agent's events into the draft; the agent it passes the turn to, if any."""
    async with aclosing(events):
        async for event in events:
            attempt.alive()
            match event:
                case Text(text):
                    attempt.fixed = attempt.fixed or bool(text)
                    draft.add(text)
                case Status(text):
                    draft.status(text)
                case Handoff(to):
                    return str(to)
                case Media():
                    attempt.fixed = True
                    with attempt.using_tool():
                        draft.add(await files.add(event))
                case ToolCall() | ToolResult() | Usage():
                    trace.add(event)
                case Done():
                    pass
    return None


def _asked(turn: OpenTurn) -> list[tuple[str, str]]:
    """The questions of this turn and their answers, as history."""
    return [
        line
        for asked in turn.journal.questions
        if asked.answer is not None
        for line in (("agent", asked.text), ("user", asked.answer))
    ]
