"""A turn of an LLM agent is killed at every moment: one reply, keyed tools once, once tools at
most once."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import models

from angarium.agents.kinds.llm import LLM
from angarium.agents.toolbox import tool
from angarium.testing.agents import AgentWorld
from angarium.testing.mortal import Fate, reach_of, tell
from angarium.testing.scripted import results, scripted

models.ALLOW_MODEL_REQUESTS = False


class Outside:
    """What the tools did to the world: effects happen here, whatever crashes."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.asked = 0
        self.paid: Counter[str] = Counter()
        self.faxed = self.signed = 0

    def tools(self):
        fate = self._fate

        @tool(effect="read")
        async def look_up(ctx, order: str) -> str:
            await fate.moment()
            return f"{order} costs 5"

        @tool(effect="keyed")
        async def pay(ctx, cents: int) -> str:
            await fate.moment()
            self.paid[ctx.idempotency_key] += 1
            await fate.moment()
            return "paid"

        @tool(effect="once")
        async def fax(ctx, to: str) -> str:
            await fate.moment()
            self.faxed += 1
            await fate.moment()
            return "faxed"

        @tool(effect="once", requires_approval=True)
        async def sign(ctx, cents: int) -> str:
            await fate.moment()
            self.signed += 1
            await fate.moment()
            return "signed"

        return [look_up, pay, fax, sign]

    def model(self):
        def then(step):
            def answer(messages, info):
                self.asked += 1
                return step(messages, info) if callable(step) else step

            return answer

        def conclude(messages, _info):
            read = results(messages)
            said = [
                f"{name} {'unknown' if read[name].startswith('outcome_unknown') else 'done'}"
                for name in ("pay", "fax", "sign")
            ]
            return ", ".join(said)

        return scripted(
            then(["One moment.", ("look_up", {"order": "A1"})]),
            then([("pay", {"cents": 5}), ("fax", {"to": "bank"})]),
            then(["Paid.", ("sign", {"cents": 5})]),
            then(conclude),
        )


async def journey(deaths: Sequence[int]) -> tuple[list[str], Outside, int]:
    fate = Fate()
    outside = Outside(fate)
    llm = LLM("shop", "sells", model=outside.model(), tools=outside.tools())
    async with AgentWorld([llm], reach=reach_of(fate)) as world:
        fate.begin(deaths)
        await tell(world, fate, "order")
        await tell(world, fate, "approve")
        assert await world.store.turns.list_open("GATEWAY1") == []
        said = [sent.body for sent in world.answers()]
        moments = fate.moments
    await llm.close()
    assert [body.type for body in said] == ["question", "text"], f"killed at {deaths}"
    return [body.text for body in said], outside, moments


def check(said: list[str], outside: Outside, deaths: Sequence[int]) -> None:
    where = f"killed at {deaths}"
    assert len(outside.paid) == 1, where
    assert outside.faxed <= 1, where
    assert outside.signed <= 1, where
    assert said[0].startswith("One moment.\n\nPaid.\n\nMay I run sign"), where
    assert (outside.faxed == 1) or "fax unknown" in said[1], where


def test_without_a_crash_each_thing_happens_once():
    said, outside, moments = asyncio.run(journey([]))
    check(said, outside, [])
    assert said[1] == "pay done, fax done, sign done"
    assert (outside.paid.total(), outside.faxed, outside.signed) == (1, 1, 1)
    assert outside.asked == 4
    assert moments > 30


@pytest.mark.slow
def test_a_crash_at_any_moment_repeats_nothing():
    replies, asked = Counter(), Counter()
    _, _, moments = asyncio.run(journey([]))
    for moment in range(moments):
        said, outside, _ = asyncio.run(journey([moment]))
        check(said, outside, [moment])
        replies[said[1]] += 1
        asked[outside.asked] += 1
    # The kills did strike between a call and its record, where it matters.
    assert "pay done, fax unknown, sign done" in replies
    assert "pay done, fax done, sign unknown" in replies
    assert set(asked) == {4, 5}  # At most one request to the model is made again.


@pytest.mark.slow
def test_crashes_at_any_two_moments_repeat_nothing():
    random_ = random.Random(11)
    _, _, moments = asyncio.run(journey([]))
    for _ in range(25):
        first = random_.randrange(moments)
        deaths = [first, first + 1 + random_.randrange(12)]
        said, outside, _ = asyncio.run(journey(deaths))
        check(said, outside, deaths)
