"""One agent that runs at several places: each turn goes where least is going on."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from angarium.agents.contract import AgentEvent, AgentKind, Host, Terms, Turn
from angarium.clock import Clock
from angarium.errors import AngariumError, Unavailable
from angarium.limits import (
    AGENT_CLOSE_S,
    AGENT_OPEN_S,
    INSTANCE_AVOID_MAX_S,
    INSTANCE_AVOID_MIN_S,
    STILL_WORKING_S,
)
from angarium.resilience import classify

Make = Callable[[str], AgentKind]
Cold = Mapping[str, bool]
"""Whether the agent at a URL would have to start first."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Instance:
    """The agent at one place."""

    url: str
    kind: AgentKind
    cold: bool = False
    outstanding: int = 0
    failures: int = 0  # In a row.
    avoided_until_s: float = 0.0
    opening: bool = False
    opened: bool = False
    gone: bool = False


class Instances:
    """An agent whose turns are spread over instances.

    A turn goes to an instance that did not just fail, a warm one before one that has to start,
    the one with the least outstanding turns; among equals a conversation keeps to the same.
    An instance that fails is avoided for a while, that grows. While it starts, the person is
    told so after STILL_WORKING_S.
    """

    def __init__(
        self,
        name: str,
        description: str,
        terms: Terms,
        *,
        make: Make,
        clock: Clock,
        of: str = "instances",
        learnt: Callable[[], None] = lambda: None,
    ) -> None:
        """`of` is the word for the kind that `make` makes; `learnt` is called when an instance
        has said what the agent can do."""
        self.name, self.description, self.terms = name, description, terms
        self.of, self._learnt = of, learnt
        self._make, self._clock = make, clock
        self._instances: dict[str, Instance] = {}
        self._host: Host | None = None
        self._chores: set[asyncio.Task[None]] = set()

    def place(self, cold: Cold) -> None:
        """From now on these are the instances. Those that leave finish their turns.

        Raises Misconfigured for a URL that makes no agent; then nothing has changed.
        """
        made = {url: self._make(url) for url in cold if url not in self._instances}
        for url in [url for url in self._instances if url not in cold]:
            gone = self._instances.pop(url)
            gone.gone = True
            self._leave(gone)
        for url, kind in made.items():
            self._instances[url] = Instance(url, kind)
        for url, is_cold in cold.items():
            self._instances[url].cold = is_cold
            if not is_cold:
                self._warm_up(self._instances[url])

    def places(self) -> list[dict[str, Any]]:
        """For operators: every instance and how it does."""
        now_s = self._clock.monotonic_s()
        return [
            {
                "url": each.url,
                "cold": each.cold,
                "outstanding": each.outstanding,
                "avoided": each.avoided_until_s > now_s,
            }
            for each in self._instances.values()
        ]

    async def open(self, host: Host) -> None:
        """Warm the instances that run. Raises what the first one raised, if none opened."""
        warm = [each for each in self._instances.values() if not each.cold]
        outcomes = await asyncio.gather(
            *(self._open(each, host) for each in warm), return_exceptions=True
        )
        failed = [each for each in outcomes if isinstance(each, BaseException)]
        if failed and len(failed) == len(warm):
            raise failed[0]
        self._host = host  # From now on, whoever comes is opened by itself.

    async def close(self) -> None:
        """Close every instance."""
        self._host = None
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await asyncio.gather(*(_close(each) for each in self._instances.values()))

    async def run(self, turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        """The events of the instance chosen. Raises what it raises, and Unavailable when there
        is none."""
        instance = self._choose(turn.conversation)
        began_s, spoke = self._clock.monotonic_s(), False
        instance.outstanding += 1
        starting = self._tell_starting(turn) if instance.cold else None
        events: Any = instance.kind.run(turn)
        try:
            async with aclosing(events):
                async for event in events:
                    if not spoke:
                        spoke = True
                        instance.cold, instance.failures = False, 0
                        self._warm_up(instance)
                        await _end(starting)
                    yield event
        except Exception as error:
            if classify(error) == "retry":
                self._avoid(instance)
            raise
        except BaseException:
            # Who stops it does not say why; silence for so long speaks against the instance.
            if not spoke and self._clock.monotonic_s() - began_s >= self.terms.first_event_s:
                self._avoid(instance)
            raise
        finally:
            instance.outstanding -= 1
            await _end(starting)
            if instance.gone:
                self._leave(instance)

    def _choose(self, conversation: str) -> Instance:
        if not self._instances:
            raise Unavailable(f"no instance of {self.name} is ready")
        now_s = self._clock.monotonic_s()
        able = [each for each in self._instances.values() if each.avoided_until_s <= now_s]
        if not able:
            return min(self._instances.values(), key=lambda each: each.avoided_until_s)
        return min(
            able, key=lambda each: (each.cold, each.outstanding, _far(conversation, each))
        )

    def _avoid(self, instance: Instance) -> None:
        pause_s = min(INSTANCE_AVOID_MIN_S * 2.0**instance.failures, INSTANCE_AVOID_MAX_S)
        instance.failures = min(instance.failures + 1, 16)
        instance.avoided_until_s = self._clock.monotonic_s() + pause_s

    # --- chores -------------------------------------------------------------------------------

    def _tell_starting(self, turn: Turn) -> asyncio.Task[None]:
        async def tell() -> None:
            await asyncio.sleep(STILL_WORKING_S)
            await turn.tools.status(f"@{self.name} is starting; this can take a minute")

        return asyncio.create_task(tell(), name=f"starting {self.name}")

    async def _open(self, instance: Instance, host: Host) -> None:
        async with asyncio.timeout(AGENT_OPEN_S):
            await instance.kind.open(host)
        instance.opened = True
        if not self.terms.skills and instance.kind.terms.skills:  # Its card says them.
            self.terms = instance.kind.terms
            self.description = self.description or instance.kind.description
            self._learnt()

    def _warm_up(self, instance: Instance) -> None:
        """Open an instance that came, or that has started, since this agent was opened."""
        if self._host is not None and not instance.opened and not instance.opening:
            instance.opening = True
            self._do(self._warm(instance, self._host))

    async def _warm(self, instance: Instance, host: Host) -> None:
        try:
            await self._open(instance, host)
        except Exception as error:
            code = error.code if isinstance(error, AngariumError) else type(error).__name__
            _log.warning("an instance of %s is not warm: %s", self.name, code)
        finally:
            instance.opening = False

    def _leave(self, instance: Instance) -> None:
        if not instance.outstanding:
            self._do(_close(instance))

    def _do(self, chore: Any) -> None:
        task = asyncio.create_task(chore, name=f"instances of {self.name}")
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _far(conversation: str, instance: Instance) -> bytes:
    """An order of the instances that every conversation has for itself."""
    return hashlib.blake2b(f"{conversation} {instance.url}".encode(), digest_size=8).digest()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _close(instance: Instance) -> None:
    try:
        async with asyncio.timeout(AGENT_CLOSE_S):
            await instance.kind.close()
    except Exception as error:
        _log.warning("an instance does not close: %s", type(error).__name__)
