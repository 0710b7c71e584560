"""One rate for a principal on all nodes, without waiting for the others at any check."""

import asyncio
from collections.abc import Mapping

from angarium.bus.rates import Rates, Spent
from angarium.errors import Unavailable
from angarium.limits import (
    LIMITER_BUCKETS_MAX,
    RATES_EVERY_S,
    RATES_KEYS_AT_ONCE,
    SOFT_AWAY_S,
)
from angarium.server.limiter import Limiter


class SharedLimiter:
    """This node's limiter, told each RATES_EVERY_S what the other nodes let through.

    Between two settlements a node goes by its own bucket: a principal on n nodes at once gets
    at most n buckets full, once, and pays back what was too much. While the others cannot be
    asked the bucket of this node decides alone. `start`, then `close`.
    """

    def __init__(self, limiter: Limiter, rates: Rates) -> None:
        self._limiter, self._rates = limiter, rates
        self._spent: dict[str, float] = {}
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._shared = True
        self._settled = self._failures = 0

    def check(self, key: str) -> float:
        """As `Limiter.check`; the others will know of it."""
        slow_s = self._limiter.check(key)
        self._spent[key] = self._spent.get(key, 0.0) + 1.0
        self._taken.set()
        return slow_s

    def figures(self) -> Mapping[str, int | float]:
        return {
            "shared": int(self._shared),
            "settled": self._settled,
            "settle_failures": self._failures,
        }

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="limiter.settle")

    async def close(self) -> None:
        """Tell the others the rest, if they can be reached now. Safe to repeat."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        await self.settle()

    async def settle(self) -> bool:
        """Settle what was taken until now. False when the others could not be asked."""
        waiting, self._spent = self._spent, {}
        keys = list(waiting)
        for at in range(0, len(keys), RATES_KEYS_AT_ONCE):
            part = keys[at : at + RATES_KEYS_AT_ONCE]
            try:
                await self._settle({key: waiting[key] for key in part})
            except BaseException as error:
                self._keep(keys[at:])
                if not isinstance(error, Unavailable):
                    raise
                self._failures += 1
                self._shared = False
                return False
        self._shared = True
        return True

    async def _run(self) -> None:
        while True:
            await self._taken.wait()
            self._taken.clear()
            # What comes meanwhile goes together with the next round.
            settled = await self.settle()
            if self._spent:
                self._taken.set()
            await asyncio.sleep(RATES_EVERY_S if settled else SOFT_AWAY_S)

    async def _settle(self, part: Mapping[str, float]) -> None:
        spent = [
            Spent(key, tokens, used)
            for key, tokens in part.items()
            if (used := self._limiter.used(key)) or tokens
        ]
        taken = {each.key: each.used for each in spent}
        for each, used in zip(spent, await self._rates.settle(spent), strict=True):
            # What this node let through while it asked is not in the answer.
            later = max(0.0, self._limiter.used(each.key) - taken[each.key])
            self._limiter.raise_used(each.key, used + later)
            self._settled += 1

    def _keep(self, keys: list[str]) -> None:
        """Their levels are told later; their tokens may have been counted already."""
        for key in keys:
            self._spent.setdefault(key, 0.0)
        while len(self._spent) > LIMITER_BUCKETS_MAX:
            del self._spent[next(iter(self._spent))]
