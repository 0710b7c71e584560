"""A lease is kept through troubles shorter than it, and a dead owner's is taken in its time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from angarium.errors import Fenced, LeaseTaken, Unavailable
from angarium.limits import LEASE_LOOK_S, LEASE_RENEW_S, LEASE_RETRY_S, LEASE_TTL_S
from angarium.storage.contract import Fence, Leases
from angarium.storage.sqlite.store import open_sqlite
from angarium.storage.tenure import Tenure
from angarium.testing.simulation.loop import LoopClock, VirtualLoop, run

TEN_MINUTES_MS = 600_000


class AwayLeases:
    """Leases of a store that is away between two moments of the loop."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.away_s = (0.0, 0.0)

    def _check(self) -> None:
        first_s, last_s = self.away_s
        if first_s <= asyncio.get_running_loop().time() < last_s:
            raise Unavailable

    async def acquire(
        self, name: str, owner: str, ttl_s: float, now_ms: int, stale: str = ""
    ) -> Fence:
        self._check()
        return await self.leases.acquire(name, owner, ttl_s, now_ms, stale)

    async def renew(self, fence: Fence, owner: str, ttl_s: float, now_ms: int) -> None:
        self._check()
        await self.leases.renew(fence, owner, ttl_s, now_ms)

    async def release(self, fence: Fence, owner: str) -> None:
        self._check()
        await self.leases.release(fence, owner)


Scenario = Callable[[VirtualLoop, AwayLeases], Awaitable[None]]


def play(scenario: Scenario) -> None:
    async def work(loop: VirtualLoop) -> None:
        opened = await open_sqlite(None, LoopClock(loop), inline=True)
        try:
            await scenario(loop, AwayLeases(opened.store.leases))
        finally:
            await opened.close()

    run(None, work)


def tenure(loop: VirtualLoop, leases: AwayLeases, owner: str, skew_ms: int = 0) -> Tenure:
    return Tenure(leases, LoopClock(loop, skew_ms), name="mailbox/G", owner=owner)


async def end(task: "asyncio.Task[object]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("skew_ms", [-TEN_MINUTES_MS, 0, TEN_MINUTES_MS], ids="{} ms".format)
def test_a_dead_owners_lease_is_taken_in_its_time_whatever_its_clock_said(skew_ms: int) -> None:
    async def scenario(loop: VirtualLoop, leases: AwayLeases) -> None:
        await tenure(loop, leases, "dead", skew_ms).take()
        died_s = loop.time()
        await tenure(loop, leases, "next").wait()
        assert loop.time() - died_s <= LEASE_TTL_S + 2 * LEASE_LOOK_S

    play(scenario)


@pytest.mark.parametrize("skew_ms", [0, TEN_MINUTES_MS], ids="{} ms".format)
def test_an_owner_that_renews_is_not_overtaken(skew_ms: int) -> None:
    async def scenario(loop: VirtualLoop, leases: AwayLeases) -> None:
        first = tenure(loop, leases, "first", skew_ms)
        await first.take()
        keeping = asyncio.ensure_future(first.keep())
        second = tenure(loop, leases, "second")
        waiting = asyncio.ensure_future(second.wait())
        await asyncio.sleep(20 * LEASE_TTL_S)
        assert second.standby
        assert not waiting.done()
        assert not keeping.done()

        await end(keeping)
        await first.leave()
        left_s = loop.time()
        await waiting
        assert not second.standby
        assert loop.time() - left_s <= LEASE_LOOK_S

    play(scenario)


def test_who_is_behind_gives_way_once_to_who_is_ahead_and_never_takes_it_back() -> None:
    async def scenario(loop: VirtualLoop, leases: AwayLeases) -> None:
        behind = tenure(loop, leases, "behind", -TEN_MINUTES_MS)
        await behind.take()
        ahead = tenure(loop, leases, "ahead")
        await ahead.wait()
        keeping = asyncio.ensure_future(ahead.keep())
        with pytest.raises(Fenced):
            await behind.keep()
        waiting = asyncio.ensure_future(behind.wait())
        await asyncio.sleep(20 * LEASE_TTL_S)
        assert not waiting.done()
        await end(keeping)
        await end(waiting)

    play(scenario)


def test_a_store_that_is_back_in_time_ends_no_tenure() -> None:
    async def scenario(loop: VirtualLoop, leases: AwayLeases) -> None:
        first = tenure(loop, leases, "first")
        await first.take()
        keeping = asyncio.ensure_future(first.keep())
        # The longest absence that leaves one more try before the lease runs out.
        leases.away_s = (LEASE_RENEW_S, LEASE_TTL_S - LEASE_RETRY_S)
        await asyncio.sleep(3 * LEASE_TTL_S)
        assert not keeping.done()
        await end(keeping)

    play(scenario)


def test_a_lease_that_may_have_run_out_is_not_worked_under() -> None:
    async def scenario(loop: VirtualLoop, leases: AwayLeases) -> None:
        first = tenure(loop, leases, "first")
        await first.take()
        leases.away_s = (0.0, 100.0)
        with pytest.raises(Fenced):
            await first.keep()
        assert LEASE_TTL_S <= loop.time() <= LEASE_TTL_S + LEASE_RETRY_S
        await first.leave()  # The store is still away: it ends by itself.
        assert first.fence is None

    play(scenario)


def test_a_lease_that_is_held_is_told_at_once_by_take() -> None:
    async def scenario(loop: VirtualLoop, leases: AwayLeases) -> None:
        await tenure(loop, leases, "first").take()
        second = tenure(loop, leases, "second")
        with pytest.raises(LeaseTaken):
            await second.take()
        assert second.standby

    play(scenario)
