"""The gateway is killed at every await on the store, restarted, and nothing happens twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from angarium.agents.agent import Agent
from angarium.agents.guard import TIRED
from angarium.errors import OutcomeUnknown, StoreUnwritable, Unavailable
from angarium.ids import ConversationId, reply_key
from angarium.limits import TURN_ATTEMPTS
from angarium.storage.contract import Fence, Store, Write
from angarium.testing.agents import CONVERSATION, AgentWorld, OpenStore, Reach, in_memory
from angarium.testing.mortal import Fate, MortalVault, reach_of, tell, until_done_or_dead


class Outside:
    """What the agent did to the world: effects happen here, whatever crashes."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self.faxed = 0

    async def pay(self, key: str) -> str:
        self.paid[key] += 1
        return "paid"

    async def fax(self, _key: str) -> str:
        self.faxed += 1
        return "faxed"


def make_shop(outside: Outside, fate: Fate) -> Agent:
    shop = Agent("shop", "pays, faxes and asks")

    @shop.on_turn
    async def handle(turn):
        paid = await turn.tools.call("pay", "keyed", outside.pay, 100)
        who = await turn.ask("For whom?")
        await fate.moment()
        try:
            faxed = await turn.tools.call("fax", "once", outside.fax, who)
        except OutcomeUnknown:
            faxed = "fax unknown"
        turn.memory["turns"] = turn.memory.get("turns", 0) + 1
        yield f"{paid} "
        yield f"{faxed} for {who}"

    return shop


async def journey(
    deaths: Sequence[int], journal: bool = True, open_store: OpenStore = in_memory
) -> tuple[AgentWorld, Outside, int]:
    fate, outside = Fate(), Outside()

    async with AgentWorld(
        [make_shop(outside, fate)], reach=reach_of(fate), journal=journal, open_store=open_store
    ) as world:
        fate.begin(deaths)
        await tell(world, fate, "order")
        await tell(world, fate, "Ada")
        if journal:
            assert await world.store.turns.list_open("GATEWAY1") == []
        assert fate.struck >= min(len(deaths), 1)
        return world, outside, fate.moments


def count_moments(journal: bool = True) -> int:
    return asyncio.run(journey([], journal))[2]


def violations(world: AgentWorld, outside: Outside) -> list[str]:
    found = []
    kinds = [sent.body.type for sent in world.answers()]
    if kinds != ["question", "text"]:
        found.append(f"not one question and one reply: {kinds}")
    if len(outside.paid) != 1:
        found.append(f"paid under {len(outside.paid)} keys")
    if outside.faxed > 1:
        found.append(f"faxed {outside.faxed} times")
    return found


def test_without_a_crash_each_thing_happens_once():
    world, outside, moments = asyncio.run(journey([]))
    assert violations(world, outside) == []
    assert list(outside.paid.values()) == [1]
    assert world.answers()[-1].body.text == "paid faxed for Ada"
    keys = [sent.key for sent in world.answers()]
    assert keys == [reply_key(CONVERSATION, 1, "shop", part) for part in (1, 0)]
    assert moments > 20


def test_a_crash_at_any_moment_repeats_nothing():
    replies, payments = Counter(), Counter()
    for moment in range(count_moments()):
        world, outside, _ = asyncio.run(journey([moment]))
        assert violations(world, outside) == [], f"killed at moment {moment}"
        replies[world.answers()[-1].body.text] += 1
        payments[outside.paid.total()] += 1
    # The kills did strike between a call and its record, where it matters.
    assert set(replies) == {"paid faxed for Ada", "paid fax unknown for Ada"}
    assert set(payments) == {1, 2}


@pytest.mark.slow
@pytest.mark.process
def test_a_crash_at_any_moment_repeats_nothing_on_mongodb(on_mongo: OpenStore):
    replies, payments = Counter(), Counter()
    _, _, moments = asyncio.run(journey([], open_store=on_mongo))
    for moment in range(moments):
        world, outside, _ = asyncio.run(journey([moment], open_store=on_mongo))
        assert violations(world, outside) == [], f"killed at moment {moment}"
        replies[world.answers()[-1].body.text] += 1
        payments[outside.paid.total()] += 1
    assert set(replies) == {"paid faxed for Ada", "paid fax unknown for Ada"}
    assert set(payments) == {1, 2}


@pytest.mark.slow
def test_crashes_at_any_two_moments_repeat_nothing():
    random_ = random.Random(7)
    moments = count_moments()
    for _ in range(60):
        first = random_.randrange(moments)
        deaths = [first, first + 1 + random_.randrange(12)]
        world, outside, _ = asyncio.run(journey(deaths))
        assert violations(world, outside) == [], f"killed at {deaths}"


def test_without_the_journal_a_crash_is_noticed():
    """Proof that the tests above can fail, and of what the journal is for."""
    found = set()
    for moment in range(count_moments(journal=False)):
        world, outside, _ = asyncio.run(journey([moment], journal=False))
        found |= set(violations(world, outside))
    assert "faxed 2 times" in found
    assert "not one question and one reply: ['question', 'text', 'text']" in found


def test_a_message_that_kills_its_gateway_each_time_is_a_dead_letter_after_five():
    fate, runs = Fate(), []
    killer = Agent("killer", "takes its process with it")

    @killer.on_turn
    async def die(turn):
        runs.append(turn.attempt)
        fate.dead.set()
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with AgentWorld([killer]) as world:
            await tell(world, fate, "x")
            assert runs == [1, 2, 3, 4, 5]
            assert (await world.turn(1)).state == "failed"
            assert [sent.body.text for sent in world.answers()] == [TIRED.sentence]

    assert TURN_ATTEMPTS == 5
    asyncio.run(scenario())


def test_a_message_that_kills_its_gateway_each_time_takes_no_other_with_it():
    fate = Fate()
    mixed = Agent("mixed", "answers, or takes its process with it")

    @mixed.on_turn
    async def answer(turn):
        if turn.text == "poison":
            fate.dead.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)  # At work whenever the poison strikes.
        return "fine"

    async def scenario() -> None:
        async with AgentWorld([mixed]) as world:
            others = [ConversationId(f"{part}{CONVERSATION[1:]}") for part in "12"]
            for other in others:
                received = world.write_message("hello", conversation=other)
                await world.endpoint.receive(received)
            await tell(world, fate, "poison")
            while not await until_done_or_dead(world, fate, world.gateway.idle()):
                pass
            assert [sent.body.text for sent in world.answers()] == [TIRED.sentence]
            for other in others:
                assert [sent.body.text for sent in world.answers(other)] == ["fine"]

    asyncio.run(scenario())


# --- the store fails without a crash ----------------------------------------------------


class FailingVault(MortalVault):
    """Fails one write: before it is done, or after (the answer is lost)."""

    def __init__(self, store: Store, at: int, error: Exception, done: bool) -> None:
        super().__init__(store, Fate())
        self._left, self._error, self._done = at, error, done

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        self._left -= 1
        if self._left == 0 and not self._done:
            raise self._error
        await self._vault.write(writes, fence)
        if self._left == 0:
            raise self._error


@pytest.mark.parametrize("done", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("error", [Unavailable(), StoreUnwritable("read-only")], ids=repr)
@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_write_that_fails_delays_the_reply_and_repeats_nothing(at, error, done, monkeypatch):
    monkeypatch.setattr("angarium.agents.gateway.TURN_RETRY_MIN_S", 0.0)
    monkeypatch.setattr("angarium.agents.replies.TURN_RETRY_MIN_S", 0.0)
    outside = Outside()
    payer = Agent("payer", "pays")

    @payer.on_turn
    async def pay(turn):
        return await turn.tools.call("pay", "keyed", outside.pay, 1)

    def reach(store: Store) -> Reach:
        return Reach(FailingVault(store, at, error, done), store.turns)

    async def scenario() -> None:
        async with AgentWorld([payer], reach=reach) as world:
            assert await world.say("x") == ["paid"]
            assert len(outside.paid) == 1
            assert (await world.turn(1)).state == "replied"

    asyncio.run(scenario())
