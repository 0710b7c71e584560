"""Runs an agent on a turn until it has replied, asked, passed it on or failed."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import assert_never

import msgspec

from angarium.agents.attempt import (
    Answered,
    Asked,
    Attempt,
    Failed,
    Joined,
    Outcome,
    Passed,
    Patience,
    Stopped,
)
from angarium.agents.bursts import Behind, Burst
from angarium.agents.contract import (
    STOPPING,
    AgentKind,
)
from angarium.agents.draft import Draft, Place
from angarium.agents.guard import (
    BROKEN,
    CANCELLED,
    FAILED_ELSEWHERE,
    IN_CIRCLES,
    NO_AGENT,
    NOT_ALLOWED,
    SILENT,
    TIRED,
    Admit,
    Trouble,
    classify,
    cut_reply,
    stands_in,
)
from angarium.agents.handoff import HUMAN, Humans, may_hand_to
from angarium.agents.listening import Listener
from angarium.agents.media import NO_FILES, Files
from angarium.agents.memory import Route
from angarium.agents.orders import TurnId
from angarium.agents.recall import Recall
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.registry import Registry
from angarium.agents.replies import Replies
from angarium.agents.routing.router import Router
from angarium.agents.routing.rules import Facts, may_answer
from angarium.agents.spend import Spend
from angarium.agents.tools import LiveTools, Suspended
from angarium.agents.ward import Aside, Ward
from angarium.errors import StoreUnwritable, Unavailable
from angarium.ids import ConversationId
from angarium.limits import (
    AGENT_STOP_S,
    BURST_WAIT_MAX_S,
    HANDOFFS_PER_TURN_MAX,
    TURN_ATTEMPTS,
    TURN_SUSPECT_ATTEMPTS,
)
from angarium.storage.contract import PutTurn

_log = logging.getLogger(__name__)


def nobody_behind(_conversation: ConversationId) -> Sequence[int]:
    """Of a runner whose turns nobody queues."""
    return ()


class TurnRunner:
    """Carries a turn from `running` to its end; safe to call again after any crash."""

    def __init__(
        self,
        desk: Desk,
        replies: Replies,
        humans: Humans,
        registry: Registry,
        *,
        router: Router,
        ward: Ward,
        recall: Recall,
        spend: Spend,
        patience: Patience,
        admit: Admit,
        files: Files = NO_FILES,
        aside: Aside = nullcontext,
        behind: Behind = nobody_behind,
    ) -> None:
        self._desk, self._replies, self._registry = desk, replies, registry
        self._router, self._humans = router, humans
        self._ward, self._recall, self._aside = ward, recall, aside
        self._spend = spend
        self._behind, self._admit = behind, admit
        self._patience = patience
        self._listener = Listener(desk, ward, spend, files)
        self._suspects = asyncio.Lock()
        self._stirred: dict[ConversationId, Callable[[], None]] = {}
        self._strays: set[asyncio.Task[Outcome]] = set()
        self._open: set[TurnId] = set()
        self._cancelled: set[TurnId] = set()

    def stir(self, conversation: ConversationId) -> None:
        """There is a message behind the turn that is open there, if one is."""
        stir = self._stirred.get(conversation)
        if stir is not None:
            stir()

    def cancel(self, turn: TurnId) -> None:
        """An operator ends the turn, if it is open here."""
        if turn in self._open:
            self._cancelled.add(turn)
            self.stir(turn[0])

    async def close(self) -> None:
        """End agents that did not end with their turn; wait for them, but not for ever."""
        for stray in self._strays:
            stray.cancel()
        if self._strays:
            await asyncio.wait(self._strays, timeout=AGENT_STOP_S)

    async def run(self, turn: OpenTurn) -> None:
        """Attempt until the turn has ended or waits. Raises Fenced, Unavailable and what
        Endpoint.submit raises; then the turn is still open and `run` may be called again.

        Of those that were begun TURN_SUSPECT_ATTEMPTS times and never ended, one at a time: a
        message that kills its process is counted out alone, and not with all that ran beside.
        """
        place = turn.record.conversation, turn.record.sequence
        self._open.add(place)
        try:
            if turn.record.attempts < TURN_SUSPECT_ATTEMPTS:
                await self._run(turn)
            else:
                async with self._suspects:
                    await self._run(turn)
        finally:
            self._open.discard(place)
            self._cancelled.discard(place)

    async def _run(self, turn: OpenTurn) -> None:
        burst = Burst(self._desk, self._replies, self._admit, turn)
        if turn.journal.joined or turn.journal.answers:
            await burst.heal()
        while True:
            agent = self._registry.find(turn.record.agent)
            if agent is None:
                return await self._replies.apologise(turn, NO_AGENT)
            if turn.record.attempts >= TURN_ATTEMPTS:
                return await self._replies.apologise(turn, TIRED)
            outcome: Outcome | None = await self._gather(turn, agent, burst)
            if outcome is None:
                await self._count_attempt(turn)
                outcome = await self._attempt(turn, agent, burst)
            if await self._settle(turn, agent, burst, outcome):
                return None

    async def _settle(
        self, turn: OpenTurn, agent: AgentKind, burst: Burst, outcome: Outcome
    ) -> bool:
        """Do what the outcome demands; whether the turn is over, or waits."""
        match outcome:
            case Answered(text, also, files):
                route = _keeps(turn, agent)
                await self._replies.finish(
                    turn, text, agent=agent.name, route=route, also=also, files=files
                )
            case Asked(question):
                await self._replies.ask(turn, question)
            case Stopped():
                await burst.end(outcome)
            case Joined(newcomers):
                await burst.join(newcomers)
                return False
            case Passed():
                return await self._passed(turn, agent, outcome)
            case Failed(trouble) if _may_pass(trouble) and self._fall_back(turn, agent):
                return False
            case Failed(trouble, after_s):
                if trouble.again and turn.record.attempts < TURN_ATTEMPTS:
                    await asyncio.sleep(self._patience.pause_s(turn.record.attempts, after_s))
                    return False
                await self._replies.apologise(turn, trouble)
            case _:
                assert_never(outcome)
        return True

    async def _gather(self, turn: OpenTurn, agent: AgentKind, burst: Burst) -> Stopped | None:
        """Before the agent begins: what waits behind the turn joins it. Whoever writes in
        pieces is waited for; a message that comes alone is not delayed."""
        conversation, loop = turn.record.conversation, asyncio.get_running_loop()
        stirred = asyncio.Event()
        self._stirred[conversation] = stirred.set
        quiet_end_s = loop.time()
        end_s = loop.time() + BURST_WAIT_MAX_S
        try:
            while True:
                stirred.clear()
                outcome = await self._look(turn, agent, burst)
                if isinstance(outcome, Stopped):
                    return outcome
                if outcome is not None:
                    await burst.join(outcome.newcomers)
                if burst.grew:
                    burst.grew = False
                    quiet_end_s = loop.time() + self._quiet_s(turn)
                pause_s = min(quiet_end_s, end_s) - loop.time()
                if pause_s <= 0:
                    return None
                with suppress(TimeoutError):
                    await asyncio.wait_for(stirred.wait(), pause_s)
        finally:
            self._stirred.pop(conversation, None)

    async def _look(
        self, turn: OpenTurn, agent: AgentKind, burst: Burst
    ) -> Joined | Stopped | None:
        """What has come up while the turn is open."""
        if (turn.record.conversation, turn.record.sequence) in self._cancelled:
            return Stopped(None, CANCELLED.code)
        return await burst.look(agent, self._behind(turn.record.conversation))

    def _quiet_s(self, turn: OpenTurn) -> float:
        """How long to wait for more pieces of what a person writes."""
        age_s = (self._desk.clock.now_ms() - turn.journal.heard_ms) / 1000
        return self._patience.burst_quiet_s - max(0.0, age_s)

    async def _passed(self, turn: OpenTurn, agent: AgentKind, passed: Passed) -> bool:
        """The agent gives the turn to another, or to people; whether it is over with that."""
        if not may_hand_to(agent, passed.to):
            await self._replies.apologise(turn, NOT_ALLOWED)
        elif passed.to == HUMAN:
            reason = f"handoff from {agent.name}"
            await self._humans.wanted(turn, reason, cut_reply(passed.said))
        elif self._pass_on(turn, passed.to) if passed.to else await self._decline(turn):
            return False
        else:
            await self._replies.apologise(turn, IN_CIRCLES)
        return True

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

    async def _attempt(self, turn: OpenTurn, agent: AgentKind, burst: Burst) -> Outcome:
        place = Place(turn.record.conversation, turn.ref, turn.stream, agent.name)
        draft = Draft(self._desk.endpoint, place)
        attempt = Attempt(self._patience.phases(agent.terms))
        tools = LiveTools(self._desk, turn, draft, self._recall, attempt)
        self._stirred[turn.record.conversation] = attempt.stir
        attempt.start(self._work(turn, agent, attempt, draft, tools))
        try:
            outcome = await self._watch(turn, agent, attempt, burst)
        finally:
            self._stirred.pop(turn.record.conversation, None)
            await self._end(attempt, agent, STOPPING if _is_cancelled() else "")
            burst.fixed = burst.fixed or attempt.fixed
            draft.close()
            await tools.close()
        if tools.broken is not None:
            raise tools.broken
        if tools.question is None or isinstance(outcome, Stopped):
            return outcome
        return Asked(tools.question)

    async def _watch(
        self, turn: OpenTurn, agent: AgentKind, attempt: Attempt, burst: Burst
    ) -> Outcome:
        """Until the agent is done, takes too long, or a message ends or joins the turn."""
        while True:
            if attempt.outcome is not None:
                return attempt.outcome
            if attempt.late is not None:
                self._ward.timed_out(agent)
                _log.warning("agent %s was stopped: %s", agent.name, attempt.late.code)
                return Failed(attempt.late)
            burst.fixed = burst.fixed or attempt.fixed
            try:
                outcome = await self._look(turn, agent, burst)
            except (Unavailable, StoreUnwritable) as error:
                _log.warning("a message waits for the turn before it: %s", error.code)
                outcome = None
            if outcome is not None and attempt.outcome is None:
                return outcome
            await attempt.wait()

    async def _end(self, attempt: Attempt, agent: AgentKind, why: str) -> None:
        stray = await attempt.stop(why)
        if stray is not None:
            _log.error("agent %s does not end when it is told to", agent.name)
            self._strays.add(stray)
            stray.add_done_callback(self._strays.discard)

    async def _work(
        self,
        turn: OpenTurn,
        agent: AgentKind,
        attempt: Attempt,
        draft: Draft,
        tools: LiveTools,
    ) -> Outcome:
        """Let the agent work; what comes of it. Raises nothing but CancelledError."""
        try:
            async with self._ward.place(agent, self._aside):
                attempt.begin()
                return await self._listener.listen(turn, agent, attempt, draft, tools)
        except Exception as error:
            asked_s = error.after_ms / 1000 if isinstance(error, Unavailable) else 0.0
            return Failed(self._judge(agent, error), asked_s)
        except (Suspended, BaseExceptionGroup, SystemExit, asyncio.CancelledError) as error:
            # An agent may wait for a task that was cancelled, ask inside a task group, or exit:
            # none of that ends the lane. Only our own cancellation does.
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            return Failed(BROKEN)  # Replaced where a question is set.
        finally:
            await tools.close()

    async def _decline(self, turn: OpenTurn) -> bool:
        """Its agent said "not mine": route again without it, and without those before it."""
        turn.journal.declined.append(turn.record.agent)
        facts = Facts(
            sticky=turn.notes.route.agent,
            channel=turn.heard.body.via or "app",
            declined=tuple(turn.journal.declined),
        )
        verdict = await self._router.again(turn.text, facts)
        reason = f"not for {turn.record.agent}; {verdict.reason}"
        if not self._pass_on(turn, verdict.agent):
            return False
        turn.record = replace(turn.record, reason=reason)
        return True

    def _pass_on(self, turn: OpenTurn, to: str) -> bool:
        agent, channel = self._registry.find(to), turn.heard.body.via or "app"
        if agent is None or not may_answer(agent, channel):
            return False
        if turn.journal.handoffs >= HANDOFFS_PER_TURN_MAX:
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

    def _judge(self, agent: AgentKind, error: Exception) -> Trouble:
        trouble = classify(error)
        # Where it failed, for the developer; never its message, which may quote the person.
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        name = type(error).__name__
        _log.warning("agent %s failed (%s): %s at %s", agent.name, trouble.code, name, where)
        return trouble


def _may_pass(trouble: Trouble) -> bool:
    """Whether another agent may fare better."""
    return trouble.again or trouble is SILENT or trouble is FAILED_ELSEWHERE


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _keeps(turn: OpenTurn, agent: AgentKind) -> Route:
    """Who has the conversation after this answer; not whoever only stood in."""
    if turn.journal.preface:
        return turn.notes.route
    return msgspec.structs.replace(turn.notes.route, agent=agent.name)
