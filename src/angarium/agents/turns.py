"""Runs an agent on a turn until it has replied, asked, passed it on or failed."""

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import assert_never

import msgspec

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
from angarium.agents.draft import Draft, Place
from angarium.agents.guard import (
    BROKEN,
    IN_CIRCLES,
    NO_AGENT,
    TIMED_OUT,
    TIRED,
    Trouble,
    classify,
    cut_reply,
    stands_in,
)
from angarium.agents.keeping import Starting, left, starting
from angarium.agents.ledger import Question
from angarium.agents.memory import Route
from angarium.agents.recall import Recall
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.registry import Registry
from angarium.agents.replies import Replies
from angarium.agents.tools import LiveTools, Suspended
from angarium.agents.ward import Aside, Ward
from angarium.e2ee.body import FileRef
from angarium.errors import NotFound, Unavailable
from angarium.ids import ConversationId
from angarium.limits import (
    HANDOFFS_PER_TURN_MAX,
    TURN_ATTEMPTS,
    TURN_FIRST_EVENT_S,
    TURN_RETRY_MAX_S,
    TURN_RETRY_MIN_S,
    TURN_SUSPECT_ATTEMPTS,
    TURN_TIMEOUT_S,
)
from angarium.storage.contract import PutTurn, Write

ReadFile = Callable[[ConversationId, FileRef], Awaitable[bytes]]
_log = logging.getLogger(__name__)


async def no_files(_conversation: ConversationId, _file: FileRef) -> bytes:
    """The file reader of a gateway that has none."""
    raise NotFound("this gateway does not read attachments")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an agent may take (seconds): to give a sign of life, in all, and how long to
    wait before trying again."""

    first_event_s: float = TURN_FIRST_EVENT_S
    turn_s: float = TURN_TIMEOUT_S
    retry_min_s: float = TURN_RETRY_MIN_S
    retry_max_s: float = TURN_RETRY_MAX_S

    def pause_s(self, attempts: int, asked_s: float = 0.0) -> float:
        """Before the attempt after the `attempts`-th: doubling, at least what was asked for,
        bounded."""
        return min(max(asked_s, self.retry_min_s * 2.0 ** (attempts - 1)), self.retry_max_s)


@dataclass(frozen=True, slots=True)
class Answered:
    text: str
    also: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    question: Question


@dataclass(frozen=True, slots=True)
class Passed:
    to: str


@dataclass(frozen=True, slots=True)
class Failed:
    trouble: Trouble
    after_s: float = 0.0  # What the other side asks to be left alone.


Outcome = Answered | Asked | Passed | Failed


class TurnRunner:
    """Carries a turn from `running` to its end; safe to call again after any crash."""

    def __init__(
        self,
        desk: Desk,
        replies: Replies,
        registry: Registry,
        *,
        ward: Ward,
        recall: Recall,
        patience: Patience,
        read_file: ReadFile = no_files,
        aside: Aside = nullcontext,
    ) -> None:
        self._desk, self._replies, self._registry = desk, replies, registry
        self._ward, self._recall, self._aside = ward, recall, aside
        self._patience, self._read_file = patience, read_file
        self._suspects = asyncio.Lock()

    async def run(self, turn: OpenTurn) -> None:
        """Attempt until the turn has ended or waits. Raises Fenced, Unavailable and what
        Endpoint.submit raises; then the turn is still open and `run` may be called again.

        Of those that were begun TURN_SUSPECT_ATTEMPTS times and never ended, one at a time: a
        message that kills its process is counted out alone, and not with all that ran beside.
        """
        if turn.record.attempts < TURN_SUSPECT_ATTEMPTS:
            await self._run(turn)
        else:
            async with self._suspects:
                await self._run(turn)

    async def _run(self, turn: OpenTurn) -> None:
        while True:
            agent = self._registry.find(turn.record.agent)
            if agent is None:
                return await self._replies.apologise(turn, NO_AGENT)
            if turn.record.attempts >= TURN_ATTEMPTS:
                return await self._replies.apologise(turn, TIRED)
            await self._count_attempt(turn)
            outcome = await self._attempt(turn, agent)
            match outcome:
                case Answered(text, also):
                    return await self._replies.finish(
                        turn, text, agent=agent.name, route=_keeps(turn, agent), also=also
                    )
                case Asked(question):
                    return await self._replies.ask(turn, question)
                case Passed(to):
                    if not self._pass_on(turn, to):
                        return await self._replies.apologise(turn, IN_CIRCLES)
                case Failed(trouble) if trouble.again and self._fall_back(turn, agent):
                    pass
                case Failed(trouble, after_s):
                    if not trouble.again or turn.record.attempts >= TURN_ATTEMPTS:
                        return await self._replies.apologise(turn, trouble)
                    await asyncio.sleep(self._patience.pause_s(turn.record.attempts, after_s))
                case _:
                    assert_never(outcome)

    async def _count_attempt(self, turn: OpenTurn) -> None:
        record = replace(
            turn.record,
            state="running",
            attempts=turn.record.attempts + 1,
            progress=self._desk.seals.seal_journal(turn.record, turn.journal),
            updated_ms=self._desk.clock.now_ms(),
        )
        if self._desk.journal:
            await self._desk.write(PutTurn(record))
        turn.record = record

    async def _attempt(self, turn: OpenTurn, agent: AgentKind) -> Outcome:
        place = Place(turn.record.conversation, turn.ref, turn.stream, agent.name)
        draft = Draft(self._desk.endpoint, place)
        limit = asyncio.timeout(self._patience.first_event_s)
        end_s = asyncio.get_running_loop().time() + self._patience.turn_s

        def alive() -> None:
            if not limit.expired():
                limit.reschedule(end_s)

        tools = LiveTools(self._desk, turn, draft, self._recall, alive)
        try:
            async with self._ward.place(agent, self._aside), limit:
                outcome = await self._listen(turn, agent, draft, tools, alive)
        except Exception as error:
            asked_s = error.after_ms / 1000 if isinstance(error, Unavailable) else 0.0
            outcome = Failed(self._judge(agent, error, limit.expired()), asked_s)
        except (Suspended, BaseExceptionGroup, SystemExit, asyncio.CancelledError) as error:
            # An agent may wait for a task that was cancelled, ask inside a task group, or exit:
            # none of that ends the lane. Only our own cancellation does.
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            outcome = Failed(BROKEN)  # Replaced below where a question is set.
        finally:
            draft.close()
            await tools.close()
        if tools.broken is not None:
            raise tools.broken
        return outcome if tools.question is None else Asked(tools.question)

    async def _listen(
        self,
        turn: OpenTurn,
        agent: AgentKind,
        draft: Draft,
        tools: LiveTools,
        alive: Callable[[], None],
    ) -> Outcome:
        start = starting(turn, agent.name)

        def begin() -> AsyncIterator[AgentEvent]:
            nonlocal start
            start = starting(turn, agent.name)
            tools.begin()
            return agent.run(self._live(turn, tools, start))

        if turn.journal.preface:
            draft.add(turn.journal.preface + "\n\n")
        passed = await _follow(self._ward.run(agent, begin), draft, alive)
        if passed is not None:
            return Passed(passed)
        text = cut_reply(draft.text)
        said = (("user", turn.text), *_asked(turn), ("agent", text))
        return Answered(text, tuple(left(self._desk, turn, start, said)))

    def _live(self, turn: OpenTurn, tools: LiveTools, start: Starting) -> Turn:
        body, record = turn.heard.body, turn.record
        return Turn(
            conversation=record.conversation,
            sequence=record.sequence,
            text=turn.text,
            person=Person(turn.heard.sender, body.name, body.via or "app"),
            agent=record.agent,
            attempt=record.attempts,
            tools=tools,
            attachments=tuple(
                self._attachment(record.conversation, file) for file in body.files
            ),
            memory=start.memory,
            person_memory=start.person_memory,
            history=start.history,
        )

    def _attachment(self, conversation: ConversationId, file: FileRef) -> Attachment:
        async def read() -> bytes:
            return await self._read_file(conversation, file)

        return Attachment(file.name, file.content_type, file.size, read)

    def _pass_on(self, turn: OpenTurn, to: str) -> bool:
        if self._registry.find(to) is None or turn.journal.handoffs >= HANDOFFS_PER_TURN_MAX:
            return False
        turn.journal.handoffs += 1
        reason = f"handoff from {turn.record.agent}"
        turn.record = replace(turn.record, agent=to, attempts=0, reason=reason)
        return True

    def _fall_back(self, turn: OpenTurn, agent: AgentKind) -> bool:
        """Pass the message to the agent that stands in for this one, where there is one and
        nothing has taken effect yet."""
        to = agent.terms.fallback or self._registry.declared.routing.fallback
        if not to or to == agent.name or turn.journal.calls or not self._pass_on(turn, to):
            return False
        turn.record = replace(turn.record, reason=f"stands in for {agent.name}")
        turn.journal.preface = stands_in(agent.name, to)
        return True

    def _judge(self, agent: AgentKind, error: Exception, expired: bool) -> Trouble:
        if expired:
            self._ward.timed_out(agent)
        trouble = TIMED_OUT if expired and isinstance(error, TimeoutError) else classify(error)
        # Where it failed, for the developer; never its message, which may quote the person.
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        name = type(error).__name__
        _log.warning("agent %s failed (%s): %s at %s", agent.name, trouble.code, name, where)
        return trouble


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _keeps(turn: OpenTurn, agent: AgentKind) -> Route:
    """Who has the conversation after this answer; not whoever only stood in."""
    if turn.journal.preface:
        return turn.notes.route
    return msgspec.structs.replace(turn.notes.route, agent=agent.name)


async def _follow(
    events: AsyncGenerator[AgentEvent, None], draft: Draft, alive: Callable[[], None]
) -> str | None:
    """Collect an agent's events into the draft; the agent it passes the turn to, if any."""
    async with aclosing(events):
        async for event in events:
            alive()
            match event:
                case Text(text):
                    draft.add(text)
                case Status(text):
                    draft.status(text)
                case Handoff(to):
                    return str(to)
                case Media() | ToolCall() | ToolResult() | Usage() | Done():
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
