"""Nodes whose own clocks are wrong go by the clock of the store they share."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.clock import ManualClock
from angarium.errors import LeaseTaken
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.model.conversation import Participant
from angarium.model.message import NewMessage

from .conftest import open_fresh_mongo

OFF_MS = 600_000
NEAR_MS = 60_000


class WrongClock(ManualClock):
    """Off by `off_ms`, which may change at any time."""

    off_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


def clock_off_by(off_ms: int) -> WrongClock:
    clock = WrongClock(time.time_ns() // 1_000_000)
    clock.off_ms = off_ms
    return clock


@pytest.fixture
def with_wrong_clock(mongo_uri: str) -> Callable[..., None]:
    """Run a scenario with a store opened by a node whose clock is ten minutes ahead."""

    def runner(scenario: Callable[[Any, WrongClock], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            clock = clock_off_by(OFF_MS)
            opened = await open_fresh_mongo(mongo_uri, clock, server_time=True)
            try:
                await scenario(opened, clock)
            finally:
                await opened.close()

        asyncio.run(whole())

    return runner


def test_the_stores_clock_is_right_and_heeds_no_step_of_the_nodes(
    with_wrong_clock: Callable[..., None],
) -> None:
    async def scenario(opened: Any, clock: WrongClock) -> None:
        started_ms = opened.clock.now_ms()
        assert abs(started_ms - time.time() * 1000) < NEAR_MS
        assert abs(opened.figures()["clock_ahead_ms"] - OFF_MS) < NEAR_MS

        clock.off_ms = -OFF_MS
        assert opened.clock.now_ms() == started_ms
        clock.advance(5.0)
        assert opened.clock.now_ms() == started_ms + 5000

    with_wrong_clock(scenario)


def test_a_message_is_dated_by_the_stores_clock(with_wrong_clock: Callable[..., None]) -> None:
    async def scenario(opened: Any, clock: WrongClock) -> None:
        c, user = ConversationId("c"), UserId("@a:x")
        await opened.store.conversations.create(c, [Participant(user, "person")], 1)
        to = {DeviceId("R"): b"x"}
        key = MessageKey("k")
        message = NewMessage(c, user, DeviceId("D"), key, 1, "m", to, clock.now_ms())
        (accepted,) = await opened.store.log.append([message])
        assert abs(accepted.accepted_ms - time.time() * 1000) < NEAR_MS

    with_wrong_clock(scenario)


def test_a_lease_is_taken_by_no_clock_that_is_ahead(
    with_wrong_clock: Callable[..., None],
) -> None:
    async def scenario(ahead: Any, clock: WrongClock) -> None:
        await ahead.store.leases.acquire("work", "owner", 10.0, time.time_ns() // 1_000_000)

        with pytest.raises(LeaseTaken):
            await ahead.store.leases.acquire("work", "other", 10.0, ahead.clock.now_ms())
        taken = await ahead.store.leases.acquire("work", "other", 10.0, clock.now_ms())
        assert taken.epoch == 2  # What its own clock would have done.

    with_wrong_clock(scenario)
