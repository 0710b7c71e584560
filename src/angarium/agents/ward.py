"""What stands between the gateway and its agents, so that none of them harms another.

A bulkhead (so many turns of one agent at once, the rest waits aside), a circuit breaker per
agent, quick retries before the first event, and bounds on what an agent may pour out.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from angarium.agents.contract import AgentEvent, AgentKind, Done, Text
from angarium.clock import Clock
from angarium.errors import Busy, TooLarge
from angarium.limits import (
    AGENT_EVENT_S_MIN,
    AGENT_EVENTS_IN_A_ROW,
    AGENT_EVENTS_MAX,
    AGENT_FLOOD_REST_S,
    AGENT_RETRY_MAX_S,
    AGENT_RETRY_MIN_S,
    AGENT_TEXT_BYTES_MAX,
    AGENT_TRIES,
    AGENT_TURNS_AT_ONCE,
    AGENT_TURNS_WAITING_MAX,
)
from angarium.resilience import Breaker, BreakerPeers, Sleep, classify, pause_before

Aside = Callable[[], AbstractContextManager[None]]
BUSY_AFTER_MS = 5000


class Ward:
    """The places and breakers of all agents of one gateway. `Host` of their kinds."""

    def __init__(
        self,
        clock: Clock,
        peers: BreakerPeers | None = None,
        *,
        at_once: int = AGENT_TURNS_AT_ONCE,
        waiting_max: int = AGENT_TURNS_WAITING_MAX,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._peers = clock, peers
        self._at_once, self._waiting_max = at_once, waiting_max
        self._sleep, self._jitter = sleep, jitter
        self._rooms: dict[str, Room] = {}
        self._flood = asyncio.Lock()
        self._breakers: dict[str, Breaker] = {}
        self._waiting = 0
        self._inside: dict[int, int] = {}  # Turns by the agent they run on, old ones included.
        self._leaving: dict[int, asyncio.Future[None]] = {}

    def breaker(self, name: str) -> Breaker:
        """The one breaker of that name."""
        found = self._breakers.get(name)
        if found is None:
            found = self._breakers[name] = Breaker(name, self._clock, self._peers)
        return found

    def states(self) -> Mapping[str, str]:
        """Of every breaker: closed, open or half_open."""
        return {name: breaker.state for name, breaker in self._breakers.items()}

    def figures(self) -> dict[str, int]:
        states = list(self.states().values())
        return {
            "breakers_open": len(states) - states.count("closed"),
            "turns_waiting": self._waiting,
        }

    def place(self, agent: AgentKind, aside: Aside = nullcontext) -> "Place":
        """`async with ward.place(agent)`: one of the agent's places for as long as the block
        runs; `aside` while it waits for one. Entering raises Busy when too many wait already.
        """
        return Place(self, agent, self._room(agent), aside)

    def outstanding(self, agent: AgentKind) -> int:
        """How many turns have or want a place at this agent, not at another of its name."""
        return self._inside.get(id(agent), 0)

    async def wait_left(self, agent: AgentKind) -> None:
        """Return when no turn has or wants a place at this very agent."""
        while self.outstanding(agent):
            if id(agent) not in self._leaving:
                self._leaving[id(agent)] = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._leaving[id(agent)])

    def entered(self, agent: AgentKind) -> None:
        self._inside[id(agent)] = self.outstanding(agent) + 1

    def left(self, agent: AgentKind) -> None:
        remaining = self.outstanding(agent) - 1
        if remaining:
            self._inside[id(agent)] = remaining
            return
        self._inside.pop(id(agent), None)
        waited = self._leaving.pop(id(agent), None)
        if waited is not None:
            waited.set_result(None)

    def _room(self, agent: AgentKind) -> "Room":
        count = agent.terms.at_once or self._at_once
        room = self._rooms.get(agent.name)
        if room is None:
            room = self._rooms[agent.name] = Room(agent.name, count)
        room.resize(count)
        return room

    async def wait_in(self, room: "Room", aside: Aside) -> None:
        """Until a place of the room is handed over. Raises Busy."""
        if self._waiting >= self._waiting_max:
            raise Busy(f"{room.name} has too much to do", BUSY_AFTER_MS)
        handed = asyncio.get_running_loop().create_future()
        room.waiting.append(handed)
        self._waiting += 1
        try:
            with aside():
                await handed
        except BaseException:
            if handed.done() and not handed.cancelled():
                room.leave()  # It was handed over as we went.
            else:
                room.waiting.remove(handed)
            raise
        finally:
            self._waiting -= 1

    async def run(
        self, agent: AgentKind, begin: Callable[[], AsyncIterator[AgentEvent]]
    ) -> AsyncGenerator[AgentEvent, None]:
        """The events of `begin()`, which runs the agent, up to and without its `Done`.

        Before the first of them, what may pass is begun again, AGENT_TRIES times in all. Raises
        what the agent raises, Unavailable while its breaker is open, and TooLarge for a flood.
        """
        breaker = self.breaker(f"agent:{agent.name}")
        tries = 1
        while True:
            admission = await breaker.admit()
            pour = Pour(agent.name, self._flood)
            events: Any = begin()
            try:
                async for event in events:
                    if isinstance(event, Done):
                        break
                    yield pour.check(event)
                    if pour.streak >= AGENT_EVENTS_IN_A_ROW:
                        await pour.rest()
            except Exception as error:
                admission.settle(failed=classify(error) == "retry")
                pause_s = self._pause_s(tries, error)
                if pour.count or tries >= AGENT_TRIES or pause_s is None:
                    raise
            except BaseException:
                admission.release()
                raise
            else:
                admission.settle(failed=False)
                return
            finally:
                await events.aclose()
            await self._sleep(pause_s)
            tries += 1

    def timed_out(self, agent: AgentKind) -> None:
        """Its turn was ended because it took too long, which `run` cannot tell from a stop."""
        self.breaker(f"agent:{agent.name}").fail()

    def _pause_s(self, tries: int, error: Exception) -> float | None:
        return pause_before(tries, error, AGENT_RETRY_MIN_S, AGENT_RETRY_MAX_S, self._jitter)


class Room:
    """The places of one agent: so many are in, the rest waits in order."""

    __slots__ = ("_count", "free", "name", "waiting")

    def __init__(self, name: str, count: int) -> None:
        self.name, self.free, self._count = name, count, count
        self.waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, count: int) -> None:
        """An agent that was replaced may have another number of places."""
        more, self._count = count - self._count, count
        self.free += more
        while self.free > 0 and self.waiting:
            self.free -= 1
            self.leave()

    def leave(self) -> None:
        """Hand the place to whoever waits longest."""
        while self.waiting and self.free >= 0:
            handed = self.waiting.popleft()
            if not handed.done():
                handed.set_result(None)
                return
        self.free += 1


class Place:
    """One place in a room, for the time of a block."""

    __slots__ = ("_agent", "_aside", "_room", "_ward")

    def __init__(self, ward: Ward, agent: AgentKind, room: Room, aside: Aside) -> None:
        self._ward, self._agent, self._room, self._aside = ward, agent, room, aside

    async def __aenter__(self) -> None:
        self._ward.entered(self._agent)
        if self._room.free > 0:
            self._room.free -= 1
            return
        try:
            await self._ward.wait_in(self._room, self._aside)
        except BaseException:
            self._ward.left(self._agent)
            raise

    async def __aexit__(self, *ended: object) -> None:
        self._ward.left(self._agent)
        self._room.leave()


class Pour:
    """What one attempt of an agent has poured out; floods of all agents share one gap."""

    __slots__ = ("_flood", "_name", "_since_s", "count", "streak", "text_bytes")

    def __init__(self, name: str, flood: asyncio.Lock) -> None:
        self._name, self._flood = name, flood
        self.count = self.streak = self.text_bytes = 0
        self._since_s = 0.0

    def check(self, event: Any) -> AgentEvent:
        """The event. Raises TooLarge over AGENT_EVENTS_MAX or AGENT_TEXT_BYTES_MAX, TypeError
        for what is none."""
        if isinstance(event, Text):
            encoded = event.text.encode(errors="replace")  # Half a surrogate pair is no text.
            self.text_bytes += len(encoded)
            if not event.text.isascii():
                event = Text(encoded.decode())
        elif not isinstance(event, AgentEvent):
            raise TypeError(f"an agent gives events, not {type(event).__name__}")
        self.count += 1
        self.streak += 1
        if self.count > AGENT_EVENTS_MAX or self.text_bytes > AGENT_TEXT_BYTES_MAX:
            raise TooLarge(f"agent {self._name} said too much in one turn")
        found: AgentEvent = event
        return found

    async def rest(self) -> None:
        """Let others run; where events come faster than from any model, let them run longer.

        All floods rest one after the other, so that any number takes no more than one.
        """
        now_s = time.monotonic()
        flooding = now_s - self._since_s < self.streak * AGENT_EVENT_S_MIN
        if flooding:
            async with self._flood:
                await asyncio.sleep(AGENT_FLOOD_REST_S)
        else:
            await asyncio.sleep(0)
        self.streak, self._since_s = 0, time.monotonic()
