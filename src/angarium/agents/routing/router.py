"""Who answers: control rules, then the cache, then the examples."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from angarium.agents.contract import AgentKind
from angarium.agents.declared import Judge
from angarium.agents.registry import Registry, Roster
from angarium.agents.routing.cache import RouteCache
from angarium.agents.routing.contract import Examples
from angarium.agents.routing.language import Languages
from angarium.agents.routing.rules import (
    Decision,
    Facts,
    ToAgent,
    Verdict,
    control,
    may_answer,
    with_examples,
    without_examples,
)
from angarium.errors import Busy, Misconfigured
from angarium.limits import JUDGE_WAIT_S, ROUTE_OPEN_WAIT_S

_log = logging.getLogger(__name__)


class Router:
    """Decides for every message; never raises for what a message holds.

    Without `examples` the control rules, the agent that has the conversation and the default
    decide. The `judge` of the registry's routing is asked for JUDGE_WAIT_S about a message that
    fits no examples; an answer that names no agent counts as none.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        examples: Examples | None = None,
        cache: RouteCache | None = None,
        languages: Languages | None = None,
    ) -> None:
        self._registry, self._examples, self._cache = registry, examples, cache
        self._languages = languages or Languages(())
        self._unsubscribe: Callable[[], None] = _nothing
        self._roster: Roster | None = None
        self._agents: tuple[AgentKind, ...] = ()
        self._names: tuple[str, ...] = ()
        self._anywhere = True  # No agent is for some channels only.

    async def open(self, wait_s: float | None = ROUTE_OPEN_WAIT_S) -> None:
        """Read the agents' examples; goes on without them after `wait_s`, and they are used as
        soon as they are read. Raises Misconfigured for a model that does not load."""
        await self._languages.open()
        if self._examples is None:
            return
        self._unsubscribe()
        self._unsubscribe = self._registry.subscribe(self._examples.update)
        self._examples.update(self._registry.roster)
        try:
            async with asyncio.timeout(wait_s):
                await self._examples.ready()
        except TimeoutError:
            _log.warning("routing examples are still being read")

    async def close(self) -> None:
        self._unsubscribe()
        self._unsubscribe = _nothing
        if self._examples is not None:
            await self._examples.close()

    def language(self, text: str, before: str = "") -> str:
        """The language of a text, `before` where it does not tell."""
        return self._languages.tell(text, before)

    async def decide(self, text: str, facts: Facts) -> Decision:
        """What to do with a message. No agent may be allowed: then ToAgent names none."""
        agents, names = self._allowed(facts)
        decided = control(text, facts, names)
        if decided is not None:
            return decided
        verdict = await self._choose(text, facts, agents, names)
        return ToAgent(verdict.agent, text, verdict.reason, verdict.score)

    async def again(self, text: str, facts: Facts) -> Verdict:
        """Who answers instead of the agents that have declined; no agent where nobody can."""
        return await self._choose(text, facts, *self._allowed(facts))

    def _allowed(self, facts: Facts) -> tuple[Sequence[AgentKind], Sequence[str]]:
        """Who may answer, and their names."""
        roster = self._registry.roster
        if roster is not self._roster:
            self._roster = roster
            self._agents, self._names = tuple(roster.agents.values()), tuple(roster.agents)
            self._anywhere = not any(agent.terms.channels for agent in self._agents)
        if self._anywhere and not facts.declined:
            return self._agents, self._names
        agents = [
            agent
            for agent in self._agents
            if agent.name not in facts.declined and may_answer(agent, facts.channel)
        ]
        return agents, [agent.name for agent in agents]

    @property
    def _fallback(self) -> str:
        return self._registry.declared.routing.fallback or self._registry.default

    async def _choose(
        self, text: str, facts: Facts, agents: Sequence[AgentKind], names: Sequence[str]
    ) -> Verdict:
        plain = without_examples(facts, names, self._registry.default)
        examples, cache = self._examples, self._cache
        if examples is None:
            return plain
        examples.update(self._registry.roster)
        if cache is None or facts.declined or not examples.version:
            return await self._ask(examples, text, facts, agents, names) or plain
        key = cache.key(examples.version, facts.sticky, facts.channel, text)
        found = cache.peek(key) or await cache.get(key)
        if found is not None and found.agent in names:
            return found
        verdict = await self._ask(examples, text, facts, agents, names)
        if verdict is None:
            return plain
        await cache.put(key, verdict)
        return verdict

    async def _ask(
        self,
        examples: Examples,
        text: str,
        facts: Facts,
        agents: Sequence[AgentKind],
        names: Sequence[str],
    ) -> Verdict | None:
        routing = self._registry.declared.routing
        try:
            guess = await examples.guess(text, names, facts.sticky)
        except (Busy, Misconfigured) as error:
            _log.warning("a message is routed without examples: %s", error.code)
            return None
        if guess is None:
            return None
        verdict = with_examples(
            guess,
            facts,
            names,
            fallback=self._fallback,
            rule=(routing.switch_nearest, routing.switch_margin),
        )
        if routing.judge is None or guess.fits or facts.sticky in names:
            return verdict
        judged = await self._ask_judge(routing.judge, text, agents)
        return Verdict(judged, f"judge; {verdict.reason}") if judged in names else verdict

    async def _ask_judge(self, judge: Judge, text: str, agents: Sequence[AgentKind]) -> str:
        try:
            async with asyncio.timeout(JUDGE_WAIT_S):
                return str(await judge(text, agents))
        except Exception as error:  # A model's client may raise anything; its text may quote.
            _log.warning("the judge of routes failed: %s", type(error).__name__)
            return ""


def _nothing() -> None:
    """Nobody has subscribed."""
