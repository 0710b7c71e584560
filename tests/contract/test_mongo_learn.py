"""What the bus tells spares the store: no race is lost for a sequence that is known."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.model.conversation import Participant

from .test_store_log import CONVERSATION, LAPTOP, message, sequences


@pytest.mark.parametrize(("told", "races"), [(True, range(2)), (False, range(5, 10))])
def test_nodes_that_write_in_turn_race_once_and_then_only_where_nobody_tells_them(
    told: bool, races: range, mongo_uri: str, fresh_mongo: Callable[..., Awaitable[Any]]
) -> None:
    async def scenario() -> None:
        one = await fresh_mongo(mongo_uri, ManualClock())
        other = await one.second()
        try:
            people = [Participant("@anna:angarium", "person")]  # type: ignore[arg-type]
            await one.store.conversations.create(CONVERSATION, people, 0)
            for turn in range(10):
                mine, theirs = (other, one) if turn % 2 else (one, other)
                device = LAPTOP if turn % 2 else "ANNAPHONE1"
                sent = message(turn // 2 + 1, device=device)
                assert sequences(await mine.store.log.append([sent])) == [turn + 1]
                if told:
                    stored = await mine.store.log.read(
                        CONVERSATION, LAPTOP, turn + 1, turn + 1, 1
                    )
                    theirs.store.log.learn(stored)
            lost = one.figures()["races_lost"] + other.figures()["races_lost"]
            assert lost in races
        finally:
            await other.close()
            await one.close()

    asyncio.run(scenario())
