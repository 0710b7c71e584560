"""Opens agents before their turns come, and closes them when they have left the registry."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from angarium.agents.contract import AgentKind
from angarium.agents.registry import Registry, Roster
from angarium.agents.ward import Ward
from angarium.errors import AngariumError
from angarium.limits import (
    AGENT_CLOSE_S,
    AGENT_LEAVE_S,
    AGENT_OPEN_S,
    AGENT_OPENS_AT_ONCE,
    AGENT_REOPEN_MAX_S,
    AGENT_REOPEN_MIN_S,
    AGENT_START_WAIT_S,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Warmth:
    """Whether an agent is open; `problem` is the code of the last failure to open it."""

    state: Literal["opening", "warm", "cold"] = "opening"
    problem: str = ""


class Warmer:
    """Owner of every agent's `open` and `close`: one task each, so both run in the same one.

    An agent that was replaced is closed when its last turn has ended, or after AGENT_LEAVE_S.
    """

    def __init__(self, registry: Registry, ward: Ward) -> None:
        self._registry, self._ward = registry, ward
        self._opening = asyncio.Semaphore(AGENT_OPENS_AT_ONCE)
        self._tended: dict[int, Tended] = {}
        self._unsubscribe: Callable[[], None] = _nobody

    async def start(self, wait_s: float = AGENT_START_WAIT_S) -> None:
        """Begin; returns when every agent was tried once, and after `wait_s` at the latest."""
        self._unsubscribe = self._registry.subscribe(self._keep_up)
        self._keep_up(self._registry.roster)
        tried = [asyncio.create_task(each.tried.wait()) for each in self._tended.values()]
        try:
            if tried:
                await asyncio.wait(tried, timeout=wait_s)
        finally:
            for task in tried:
                task.cancel()
            await asyncio.gather(*tried, return_exceptions=True)

    async def close(self) -> None:
        """Close every agent, each within AGENT_CLOSE_S."""
        self._unsubscribe()
        self._unsubscribe = _nobody
        tasks = [each.task for each in self._tended.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def warmth(self) -> Mapping[str, Warmth]:
        """Of every agent of the registry, by name."""
        agents = self._registry.roster.agents
        return {
            name: self._tended[id(agent)].warmth
            if id(agent) in self._tended
            else Warmth("cold")
            for name, agent in agents.items()
        }

    def _keep_up(self, roster: Roster) -> None:
        wanted = {id(agent): agent for agent in roster.agents.values()}
        for key, tended in self._tended.items():
            if key not in wanted:
                tended.gone.set()
        for key, agent in wanted.items():
            before = self._tended.get(key)
            if before is None or before.gone.is_set():
                self._tended[key] = self._tend(agent, before)

    def _tend(self, agent: AgentKind, before: "Tended | None") -> "Tended":
        tended = Tended(agent)
        care = self._care(tended, before)
        tended.task = asyncio.create_task(care, name=f"agent {agent.name}")
        tended.task.add_done_callback(lambda task: self._forget(tended))
        return tended

    def _forget(self, tended: "Tended") -> None:
        if self._tended.get(id(tended.agent)) is tended:
            del self._tended[id(tended.agent)]

    async def _care(self, tended: "Tended", before: "Tended | None") -> None:
        agent = tended.agent
        if before is not None:
            await asyncio.wait({before.task})  # It left and came back: closed before it opens.
        try:
            await self._open(tended)
            await tended.gone.wait()
            try:
                async with asyncio.timeout(AGENT_LEAVE_S):
                    await self._ward.wait_left(agent)
            except TimeoutError:
                _log.warning("agent %s was replaced and is closed under its turns", agent.name)
        finally:
            await _close(agent)

    async def _open(self, tended: "Tended") -> None:
        """Until it is open or gone."""
        agent, pause_s = tended.agent, AGENT_REOPEN_MIN_S
        while not tended.gone.is_set():
            try:
                async with self._opening, asyncio.timeout(AGENT_OPEN_S):
                    await agent.open(self._ward)
            except BaseException as error:
                # What it waits for may be cancelled, alone or in a group; we are not, then.
                if _is_ours(error):
                    raise
                code = error.code if isinstance(error, AngariumError) else type(error).__name__
                tended.warmth = Warmth("cold", code)
                _log.warning("agent %s is not warm: %s", agent.name, code)
            else:
                tended.warmth = Warmth("warm")
                self._registry.refresh()  # A remote agent's card says what it can do.
                return
            finally:
                tended.tried.set()
            await _close(agent)
            await _pause(tended.gone, pause_s)
            pause_s = min(pause_s * 2, AGENT_REOPEN_MAX_S)


def _nobody() -> None:
    """Before `start` nothing is subscribed."""


class Tended:
    """One agent, the task that has it in its care, and how far it is."""

    task: asyncio.Task[None]

    def __init__(self, agent: AgentKind) -> None:
        self.agent, self.warmth = agent, Warmth()
        self.gone, self.tried = asyncio.Event(), asyncio.Event()


def _is_ours(error: BaseException) -> bool:
    """Whether it ends this task, and is no failure of the agent."""
    if isinstance(error, Exception):
        return False
    task = asyncio.current_task()
    is_cancelled = task is not None and task.cancelling() > 0
    return is_cancelled or isinstance(error, KeyboardInterrupt | SystemExit)


async def _close(agent: AgentKind) -> None:
    try:
        async with asyncio.timeout(AGENT_CLOSE_S):
            await agent.close()
    except BaseException as error:
        if _is_ours(error) and not isinstance(error, BaseExceptionGroup):
            raise
        _log.warning("agent %s does not close: %s", agent.name, type(error).__name__)


async def _pause(gone: asyncio.Event, pause_s: float) -> None:
    """Wait, unless it is gone."""
    try:
        async with asyncio.timeout(pause_s):
            await gone.wait()
    except TimeoutError:
        pass
