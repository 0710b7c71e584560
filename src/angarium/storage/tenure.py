"""A lease as whoever works under it has it: waited for, kept up, given back."""

import asyncio
from typing import NoReturn

from angarium.clock import Clock
from angarium.errors import AngariumError, Fenced, LeaseTaken
from angarium.limits import LEASE_LOOK_S, LEASE_RENEW_S, LEASE_RETRY_S, LEASE_TTL_S
from angarium.storage.contract import Fence, Leases
from angarium.telemetry.log import get_logger

_STANDING_BY = f"standing by: another process works, or died less than {LEASE_TTL_S:g} s ago"
log = get_logger("angarium.lease")


class Tenure:
    """The lease `name` for the process `owner`: `wait` or `take`, then `keep`, then `leave`."""

    def __init__(self, leases: Leases, clock: Clock, *, name: str, owner: str) -> None:
        self._leases, self._clock = leases, clock
        self.name, self.owner = name, owner
        self.fence: Fence | None = None
        self.standby = False  # Whether another process held it when asked last.
        self._until_s = 0.0
        self._seen, self._seen_s = "", 0.0  # The other one's newest renewal, and since when.

    async def take(self) -> Fence:
        """Take it now. Raises LeaseTaken, Unavailable and its kinds.

        Called again and again it takes a dead owner's in LEASE_TTL_S, whatever the wall clocks
        of both say.
        """
        asked_s = self._clock.monotonic_s()
        stale = self._seen if asked_s - self._seen_s > LEASE_TTL_S else ""
        try:
            self.fence = await self._leases.acquire(
                self.name, self.owner, LEASE_TTL_S, self._clock.now_ms(), stale
            )
        except LeaseTaken as taken:
            self.standby = True
            if taken.renewal != self._seen:
                self._seen, self._seen_s = taken.renewal, self._clock.monotonic_s()
            raise
        self._until_s = asked_s + LEASE_TTL_S
        self.standby = False
        return self.fence

    async def wait(self) -> Fence:
        """Take it as soon as it is free. Raises Unavailable and its kinds."""
        told = False
        try:
            while True:
                try:
                    return await self.take()
                except LeaseTaken:
                    if not told:
                        told = True
                        log.warning("lease.standing_by", lease=self.name, why=_STANDING_BY)
                    await asyncio.sleep(LEASE_LOOK_S)
        finally:
            self.standby = False

    async def keep(self) -> NoReturn:
        """Renew it until cancelled. Raises Fenced when another owner has it, or when it may
        have run out because the store was away.

        Writes are fenced in any case; a lease that may have run out is not worked under.
        """
        pause_s = LEASE_RENEW_S
        while True:
            await asyncio.sleep(pause_s)
            asked_s, fence = self._clock.monotonic_s(), self.fence
            if fence is None:
                raise Fenced("this process does not hold the lease")
            try:
                await self._leases.renew(fence, self.owner, LEASE_TTL_S, self._clock.now_ms())
            except Fenced:
                raise
            except AngariumError as error:
                log.warning("lease.delayed", lease=self.name, code=error.code)
                if self._clock.monotonic_s() >= self._until_s:
                    raise Fenced("the lease ran out while the store was away") from None
                pause_s = LEASE_RETRY_S
            else:
                self._until_s, pause_s = asked_s + LEASE_TTL_S, LEASE_RENEW_S

    async def leave(self) -> None:
        """Give it back, so that nobody waits; while the store is away it ends by itself."""
        fence, self.fence = self.fence, None
        if fence is not None:
            try:
                await self._leases.release(fence, self.owner)
            except AngariumError as error:
                log.warning("lease.left", lease=self.name, code=error.code)
