"""One turn outside a conversation: whoever asks over HTTP waits for the answer and has it all.

The request is the conversation. Nothing is written: what must outlive the request (the journal
of a turn that asks something, the memory) is the caller's, who hands it in again.
"""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from angarium.agents.contract import (
    AgentEvent,
    AgentKind,
    Attachment,
    Done,
    Handoff,
    Person,
    Status,
    Text,
    Turn,
    Usage,
)
from angarium.agents.direct_tools import DirectTools
from angarium.agents.guard import Admit, admit_everybody, check_inbound, stands_in
from angarium.agents.guard import classify as judge
from angarium.agents.handoff import may_hand_to
from angarium.agents.ledger import Journal, Question
from angarium.agents.registry import Registry
from angarium.agents.tools import Suspended
from angarium.agents.ward import Ward
from angarium.clock import Clock
from angarium.errors import (
    AgentFailed,
    AgentTimedOut,
    AngariumError,
    BadReply,
    Busy,
    NotFound,
    OutcomeUnknown,
    OverBudget,
    RateLimited,
    TooLarge,
    Unavailable,
)
from angarium.ids import UserId
from angarium.limits import (
    DIRECT_EVENTS_WAITING,
    DIRECT_HISTORY_MAX,
    DIRECT_PLACE_WAIT_S,
    DIRECT_RUNS_MAX,
    DIRECT_RUNS_PER_PERSON_MAX,
    HANDOFFS_PER_TURN_MAX,
    TURN_TEXT_CHARS_MAX,
)

_log = logging.getLogger(__name__)
BUSY_AFTER_MS = 2000


@dataclass(frozen=True, slots=True)
class Asked:
    """The run ended at a question. Set `question.answer` and run again with the same journal,
    text and key: the agent starts from its beginning and finds the answer."""

    question: Question
    agent: str


DirectEvent = AgentEvent | Asked
Used = Callable[[AgentKind, Person, Usage], Awaitable[None]]
"""What is told of every `Usage`; whatever it raises ends the run."""


async def use_freely(_agent: AgentKind, _person: Person, _usage: Usage) -> None:
    """The hook of a gateway that counts nothing."""


Other = Callable[[str, tuple[str, ...]], Awaitable[str]]
"""other(text, declined): who answers what these agents have said is not theirs."""


async def nobody_else(_text: str, _declined: tuple[str, ...]) -> str:
    """The hook of a gateway without a router."""
    return ""


@dataclass(slots=True)
class _Request:
    """One run, while it goes."""

    text: str
    person: Person
    history: tuple[tuple[str, str], ...]
    files: tuple[Attachment, ...]
    conversation: str
    sequence: int
    key: str
    journal: Journal
    memory: dict[str, Any]
    told: asyncio.Queue[Any] = field(
        default_factory=lambda: asyncio.Queue(DIRECT_EVENTS_WAITING)
    )
    declined: tuple[str, ...] = ()
    cost_usd: float = 0.0
    begun: bool = False  # Something was said that cannot be taken back.


class DirectRunner:
    """Runs agents for requests: guarded, timed by the agent's terms, within the ward."""

    def __init__(
        self,
        registry: Registry,
        ward: Ward,
        clock: Clock,
        *,
        admit: Admit = admit_everybody,
        used: Used = use_freely,
        other: Other = nobody_else,
        runs_max: int = DIRECT_RUNS_MAX,
        place_wait_s: float = DIRECT_PLACE_WAIT_S,
        new_key: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._registry, self._ward, self._clock = registry, ward, clock
        self._admit, self._used, self._other = admit, used, other
        self._runs_max, self._place_wait_s = runs_max, place_wait_s
        self._new_key = new_key
        self._running = 0
        self._of: dict[str, int] = {}  # By person.

    @property
    def running(self) -> int:
        return self._running

    async def run(
        self,
        agent_name: str,
        text: str,
        history: Sequence[tuple[str, str]],
        person: Person,
        files: Sequence[Attachment] = (),
        *,
        conversation: str = "",
        key: str = "",
        journal: Journal | None = None,
        memory: dict[str, Any] | None = None,
    ) -> AsyncGenerator[DirectEvent, None]:
        """The events of one turn, ended by `Done`, or by `Asked` where the agent asks.

        `history` is (role, text) with the roles `user` and `agent`, oldest first. `key` is the
        request's idempotency key: tools see keys derived from it and the person. `journal` and
        `memory` are used and changed; hand in what an earlier run left in them.

        Closing the iterator stops the agent. Raises NotFound, TooLarge, RateLimited, Busy,
        Unavailable, AgentTimedOut, BadReply, OutcomeUnknown, OverBudget, and AgentFailed for
        all else.
        """
        if self._registry.find(agent_name) is None:
            raise NotFound(f"there is no agent {agent_name[:40]!r}")
        self._check(text, person)
        key = key or self._new_key()
        scoped = hashlib.sha256(f"{person.user}\0{key}".encode()).digest()
        request = _Request(
            text=text,
            person=person,
            history=_cut(history),
            files=tuple(files),
            conversation=conversation or str(uuid.UUID(bytes=scoped[:16])),
            sequence=int.from_bytes(scoped[16:22], "big"),
            key=scoped.hex(),
            journal=journal or Journal(),
            memory={} if memory is None else memory,
        )
        self._count(person.user)
        work = asyncio.create_task(self._work(request, agent_name), name="direct run")
        try:
            while (event := await request.told.get()) is not None:
                yield event
            await work
        finally:
            # Its own task: what ends a time-out must be the agent, never whoever reads.
            work.cancel()
            try:
                await asyncio.gather(work, return_exceptions=True)
            finally:
                self._uncount(person.user)

    def _count(self, user: str) -> None:
        """One more run. Raises Busy."""
        if (
            self._running >= self._runs_max
            or self._of.get(user, 0) >= DIRECT_RUNS_PER_PERSON_MAX
        ):
            raise Busy("too many requests are being answered", BUSY_AFTER_MS)
        self._running += 1
        self._of[user] = self._of.get(user, 0) + 1

    def _uncount(self, user: str) -> None:
        self._running -= 1
        self._of[user] -= 1
        if not self._of[user]:
            del self._of[user]

    def _check(self, text: str, person: Person) -> None:
        trouble = check_inbound(text, UserId(person.user), self._admit)
        if trouble is None:
            return
        if trouble.code == RateLimited.code:
            raise RateLimited(trouble.sentence, 60_000)
        if trouble.code == TooLarge.code:
            raise TooLarge(trouble.sentence)
        raise AgentFailed(trouble.sentence)

    async def _work(self, request: _Request, agent_name: str) -> None:
        """Put the events into `request.told`, None at the end."""
        handoffs = 0
        try:
            while agent_name:
                agent = self._registry.find(agent_name)
                if agent is None or handoffs > HANDOFFS_PER_TURN_MAX:
                    raise AgentFailed("no agent here could take this over the API")
                try:
                    agent_name = await self._attempt(request, agent)
                except AngariumError as error:
                    agent_name = self._stand_in(request, agent, error)
                    if not agent_name:
                        raise
                    text = stands_in(agent.name, agent_name) + "\n\n"
                    await request.told.put(Text(text))
                handoffs += 1
        finally:
            # Where the queue is full and the reader gone, nobody waits for the end.
            if not _is_cancelled():
                await request.told.put(None)

    async def _attempt(self, request: _Request, agent: AgentKind) -> str:
        """Run the agent; the name of the one that it passes the request to, or nothing."""
        loop, terms = asyncio.get_running_loop(), agent.terms
        limit = asyncio.timeout(terms.first_event_s)
        end_s = loop.time() + terms.timeout_s

        def alive() -> None:
            if not limit.expired():
                limit.reschedule(min(loop.time() + terms.quiet_s, end_s))

        tools = DirectTools(request.journal, request.key, agent.name, request.told, alive)
        try:
            async with AsyncExitStack() as stack:
                await self._enter(stack, agent)
                await stack.enter_async_context(limit)
                return await self._listen(request, agent, tools, alive)
        except Exception as error:
            if limit.expired():
                self._ward.timed_out(agent)
            if tools.question is None:
                raise _coded(agent, error, limit.expired()) from error
        except (Suspended, BaseExceptionGroup, SystemExit, asyncio.CancelledError) as error:
            # As in a conversation: none of these ends more than the agent's own run.
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            if tools.question is None:
                raise AgentFailed("the agent stopped itself") from error
        finally:
            tools.close()
        await request.told.put(Asked(tools.question, agent.name))
        return ""

    async def _enter(self, stack: AsyncExitStack, agent: AgentKind) -> None:
        """One of the agent's places, or Busy: whoever waits here holds a connection."""
        try:
            async with asyncio.timeout(self._place_wait_s):
                await stack.enter_async_context(self._ward.place(agent))
        except TimeoutError:
            raise Busy(f"{agent.name} has too much to do", BUSY_AFTER_MS) from None

    async def _listen(
        self,
        request: _Request,
        agent: AgentKind,
        tools: DirectTools,
        alive: Callable[[], None],
    ) -> str:
        def begin() -> AsyncIterator[AgentEvent]:
            tools.begin()
            return agent.run(
                Turn(
                    conversation=request.conversation,
                    sequence=request.sequence,
                    text=request.text,
                    person=request.person,
                    agent=agent.name,
                    attempt=1,
                    tools=tools,
                    attachments=request.files,
                    memory=request.memory,
                    history=request.history,
                )
            )

        async with aclosing(self._ward.run(agent, begin)) as events:
            async for event in events:
                alive()
                if isinstance(event, Usage):
                    await self._count_usage(request, agent, event)
                if tools.hold(event):
                    continue
                request.begun = request.begun or not isinstance(event, Status)
                await request.told.put(event)
                if isinstance(event, Handoff):
                    to = str(event.to)
                    if not may_hand_to(agent, to):
                        raise AgentFailed("the agent may not pass anything there")
                    return to or await self._decline(request, agent)
        for held in tools.release():
            await request.told.put(held)
        await request.told.put(Done())
        return ""

    async def _count_usage(self, request: _Request, agent: AgentKind, usage: Usage) -> None:
        """Raises OverBudget, and what the hook raises."""
        request.cost_usd += usage.cost_usd
        await self._used(agent, request.person, usage)
        if agent.terms.budget_usd and request.cost_usd > agent.terms.budget_usd:
            raise OverBudget("this request has used up what it may")

    async def _decline(self, request: _Request, agent: AgentKind) -> str:
        request.declined += (agent.name,)
        return await self._other(request.text, request.declined) or "human"

    def _stand_in(self, request: _Request, agent: AgentKind, error: AngariumError) -> str:
        """Who answers instead, while nothing was said or done yet."""
        to = agent.terms.fallback or self._registry.declared.routing.fallback
        passes = error.retryable and not request.begun and not request.journal.calls
        return to if passes and to != agent.name and self._registry.find(to) else ""


def _coded(agent: AgentKind, error: Exception, expired: bool) -> AngariumError:
    """What the caller is told; never the sentence of an error that is not ours."""
    _log.warning("agent %s failed a request: %s", agent.name, type(error).__name__)
    trouble = judge(error)
    if expired and isinstance(error, TimeoutError):
        return AgentTimedOut("the agent took too long and was stopped")
    if isinstance(error, Unavailable):
        return type(error)(trouble.sentence, error.after_ms)
    if isinstance(error, BadReply | OutcomeUnknown | OverBudget | TooLarge):
        return type(error)(trouble.sentence)
    return Unavailable(trouble.sentence) if trouble.again else AgentFailed(trouble.sentence)


def _cut(history: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    newest = history[-DIRECT_HISTORY_MAX:]
    return tuple((role, text[:TURN_TEXT_CHARS_MAX]) for role, text in newest)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
