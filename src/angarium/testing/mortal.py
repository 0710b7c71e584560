"""A process that dies at chosen moments: around its calls to the store, or in an agent.

Tests kill a gateway at each of them, start another over the same store, and look what happened.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from angarium.ids import ConversationId, DeviceId
from angarium.storage.contract import Fence, Store, Turn, TurnState, Write
from angarium.testing.agents import CONVERSATION, AgentWorld, Reach


class Fate:
    """Counts the moments before and after each store call; at the chosen ones the process is
    dead: it stands still for ever there, and so does whatever it tries afterwards.

    With `may_halve` there is a moment within each write of several parts too: its first part is
    written then, as stores without transactions may leave it.
    """

    def __init__(self, may_halve: bool = False) -> None:
        self.moments = self.struck = 0
        self._may_halve = may_halve
        self._deaths: list[int] = []
        self.dead = asyncio.Event()

    def begin(self, deaths: Sequence[int]) -> None:
        self.moments, self._deaths = 0, sorted(deaths)

    async def look(self) -> None:
        """What happens by the clock, and not by what a test does, is no moment."""
        if self.dead.is_set():
            await asyncio.Event().wait()

    async def moment(self) -> None:
        """Pass, or stand still for ever."""
        if self.dead.is_set() or self._strikes():
            self.dead.set()
            await asyncio.Event().wait()
        self.moments += 1

    def halves(self) -> bool:
        """Whether this is a moment to die in the middle of a write."""
        if self.dead.is_set() or not self._may_halve:
            return False
        struck = self._strikes()
        self.moments += 1
        return struck

    def _strikes(self) -> bool:
        if not self._deaths or self.moments != self._deaths[0]:
            return False
        self._deaths.pop(0)
        self.struck += 1
        return True


class MortalVault:
    def __init__(self, store: Store, fate: Fate) -> None:
        self._vault, self._fate = store.vault, fate

    async def read(self, scope: str, prefix: str = "") -> Any:
        by_the_clock = scope.endswith(("/controls", "/humans"))
        await (self._fate.look() if by_the_clock else self._fate.moment())
        return await self._vault.read(scope, prefix)

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        await self._fate.moment()
        if len(writes) > 1 and self._fate.halves():
            await self._vault.write(writes[:1], fence)
            self._fate.dead.set()
        else:
            await self._vault.write(writes, fence)
        await self._fate.moment()


class MortalTurns:
    def __init__(self, store: Store, fate: Fate) -> None:
        self._turns, self._fate = store.turns, fate

    async def find(self, conversation: ConversationId, sequence: int) -> Turn | None:
        await self._fate.moment()
        return await self._turns.find(conversation, sequence)

    async def list_open(self, owner: DeviceId) -> list[Turn]:
        return await self._turns.list_open(owner)

    async def list_recent(self, turns_max: int, state: TurnState | None = None) -> list[Turn]:
        return await self._turns.list_recent(turns_max, state)


async def until_done_or_dead(
    world: AgentWorld, fate: Fate, work: Coroutine[Any, Any, None]
) -> bool:
    """Run `work`; false when the process died meanwhile, then it has been replaced."""
    running = asyncio.ensure_future(work)
    dying = asyncio.ensure_future(fate.dead.wait())
    await asyncio.wait({running, dying}, return_when=asyncio.FIRST_COMPLETED)
    alive = not fate.dead.is_set()
    if alive:
        dying.cancel()
        await running
        return True
    while fate.dead.is_set():
        fate.dead.clear()
        await world.kill()
        starting = asyncio.ensure_future(world.start())
        dying = asyncio.ensure_future(fate.dead.wait())
        await asyncio.wait({starting, dying}, return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    return False


async def tell(world: AgentWorld, fate: Fate, text: str) -> None:
    """The relay delivers a message until its receipt is durable, then the work is done."""
    received = world.write_message(text)

    async def has_it() -> bool:
        return await world.store.turns.find(CONVERSATION, received.sequence) is not None

    while not await has_it():
        await until_done_or_dead(world, fate, world.endpoint.receive(received))
    while not await until_done_or_dead(world, fate, world.gateway.idle()):
        pass


def reach_of(fate: Fate) -> Callable[[Store], Reach]:
    """For `AgentWorld(reach=...)`: the store's calls are moments of `fate`."""

    def reach(store: Store) -> Reach:
        vault: Any = MortalVault(store, fate)
        turns: Any = MortalTurns(store, fate)
        return Reach(vault, turns)

    return reach
