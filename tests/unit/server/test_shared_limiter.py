"""A principal on several nodes has one rate, and no check ever waits for another node."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from angarium.bus.rates import LocalRates, Spent
from angarium.errors import RateLimited, Unavailable
from angarium.limits import RATES_EVERY_S, RATES_KEYS_AT_ONCE, SOFT_AWAY_S
from angarium.server.limiter import Limiter
from angarium.server.shared_limiter import SharedLimiter
from angarium.testing.simulation.loop import LoopClock, VirtualLoop, run

RATE = 30
ANN = "@ann:test"


class Rates(LocalRates):
    """They can go away: before or after the tokens were counted. Each call takes a while."""

    away = False
    unclear = False
    calls = 0

    async def settle(self, spent: Sequence[Spent]) -> Sequence[float]:
        await asyncio.sleep(0.005)
        self.calls += 1
        if self.away:
            raise Unavailable("redis does not answer")
        used = await super().settle(spent)
        if self.unclear:
            raise Unavailable("redis does not answer")
        return used


class Nodes:
    def __init__(self, loop: VirtualLoop, count: int) -> None:
        clock = LoopClock(loop)
        self.table: dict[str, float] = {}
        self.rates = [Rates(RATE, clock, self.table) for _ in range(count)]
        self.limiters = [SharedLimiter(Limiter(RATE, clock), each) for each in self.rates]

    def take(self, n: int, key: str = ANN) -> bool:
        try:
            self.limiters[n].check(key)
        except RateLimited:
            return False
        return True


def on_nodes(scenario: Callable[[Nodes], Coroutine[Any, Any, None]], count: int = 3) -> None:
    async def work(loop: VirtualLoop) -> None:
        nodes = Nodes(loop, count)
        for each in nodes.limiters:
            await each.start()
        try:
            await scenario(nodes)
        finally:
            for each in nodes.limiters:
                await each.close()
                await each.close()
        assert loop.unhandled == []

    run(None, work)


async def greedy(nodes: Nodes, seconds: float, every_s: float) -> int:
    """Ask on every node as fast as that; how much was let through."""
    passed = 0
    for _ in range(round(seconds / every_s)):
        passed += sum(nodes.take(n) for n in range(len(nodes.limiters)))
        await asyncio.sleep(every_s)
    return passed


def test_three_connections_on_three_nodes_do_not_get_three_rates() -> None:
    async def scenario(nodes: Nodes) -> None:
        passed = await greedy(nodes, seconds=600, every_s=0.5)

        # Full once, refilled for ten minutes, and one settlement's worth.
        assert passed <= RATE + 10 * RATE + 3
        assert passed > 10 * RATE

    on_nodes(scenario)


def test_three_bursts_at_once_let_through_three_buckets_and_are_paid_back() -> None:
    async def scenario(nodes: Nodes) -> None:
        assert sum(nodes.take(n) for _ in range(2 * RATE) for n in range(3)) == 3 * RATE
        # What was too much: two buckets, two minutes of refill. The nodes that settled before
        # the last one learn of it when they let the next one through.
        assert await greedy(nodes, seconds=115, every_s=0.5) <= 2
        assert await greedy(nodes, seconds=120, every_s=0.5) > RATE

    on_nodes(scenario)


def test_alternating_between_nodes_gains_nothing_in_the_long_run() -> None:
    async def scenario(nodes: Nodes) -> None:
        passed = 0
        for turn in range(60):  # Quiet on two nodes while the third is used up.
            for _ in range(2 * RATE):
                passed += nodes.take(turn % 3)
            await asyncio.sleep(60)

        assert passed <= 60 * RATE + 3 * RATE

    on_nodes(scenario)


def test_a_node_takes_over_what_the_others_let_through() -> None:
    async def scenario(nodes: Nodes) -> None:
        assert all(nodes.take(0) for _ in range(RATE))
        await asyncio.sleep(2 * RATES_EVERY_S)
        assert nodes.take(1), "it has not asked yet"
        await asyncio.sleep(RATES_EVERY_S)

        assert not nodes.take(1)
        assert nodes.take(1, "@bob:test")

    on_nodes(scenario)


def test_what_is_let_through_while_it_settles_is_not_forgotten() -> None:
    async def scenario(nodes: Nodes) -> None:
        assert all(nodes.take(1) for _ in range(RATE // 2))
        await asyncio.sleep(1)
        nodes.take(0)
        await asyncio.sleep(0.002)  # The settlement is under way.
        assert all(nodes.take(0) for _ in range(RATE // 2))
        await asyncio.sleep(0.01)

        assert not nodes.take(0)

    on_nodes(scenario)


@pytest.mark.parametrize("how", ["away", "unclear"])
def test_while_the_others_cannot_be_asked_the_own_bucket_decides(how: str) -> None:
    async def scenario(nodes: Nodes) -> None:
        for each in nodes.rates:
            setattr(each, how, True)
        passed = await greedy(nodes, seconds=300, every_s=1.0)
        assert 3 * 5 * RATE <= passed <= 3 * 6 * RATE, "each node by itself, never an error"
        assert nodes.limiters[0].figures()["shared"] == 0
        calls = nodes.rates[0].calls
        assert calls <= 300 / SOFT_AWAY_S + 2, "it is left alone while it is away"
        for each in nodes.rates:
            setattr(each, how, False)
        passed = await greedy(nodes, seconds=300, every_s=1.0)

        assert passed <= 5 * RATE + 3, "and one rate again afterwards"
        assert nodes.limiters[0].figures()["shared"] == 1

    on_nodes(scenario)


def test_what_was_let_through_while_redis_was_away_is_told_when_it_is_back() -> None:
    async def scenario(nodes: Nodes) -> None:
        nodes.rates[0].away = True
        assert all(nodes.take(0) for _ in range(RATE))
        await asyncio.sleep(1)
        nodes.rates[0].away = False
        await asyncio.sleep(2)
        nodes.take(1)
        await asyncio.sleep(1)

        assert sum(nodes.take(1) for _ in range(RATE)) <= 2

    on_nodes(scenario)


def test_what_redis_forgot_is_restored_by_the_nodes() -> None:
    async def scenario(nodes: Nodes) -> None:
        assert all(nodes.take(0) for _ in range(RATE))
        await asyncio.sleep(1)
        nodes.table.clear()
        await asyncio.sleep(2)
        assert nodes.take(0), "a token came back; with it goes the level of the bucket"
        await asyncio.sleep(1)
        nodes.take(1)
        await asyncio.sleep(1)

        assert sum(nodes.take(1) for _ in range(RATE)) <= 2

    on_nodes(scenario)


def test_many_principals_share_a_round() -> None:
    async def scenario(nodes: Nodes) -> None:
        for n in range(3 * RATES_KEYS_AT_ONCE):
            nodes.take(0, f"@user{n}:test")
        await asyncio.sleep(1)

        assert nodes.rates[0].calls == 3
        assert nodes.limiters[0].figures()["settled"] == 3 * RATES_KEYS_AT_ONCE

    on_nodes(scenario)


def test_a_node_that_goes_tells_the_rest() -> None:
    async def scenario(nodes: Nodes) -> None:
        nodes.take(0)
        await asyncio.sleep(0.1)
        assert sum(nodes.take(0) for _ in range(RATE)) == RATE - 1
        await nodes.limiters[0].close()
        nodes.take(1)
        await asyncio.sleep(0.1)

        assert not nodes.take(1)

    on_nodes(scenario)
