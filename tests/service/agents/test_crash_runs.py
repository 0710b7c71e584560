"""200 seeded runs: people write in bursts, the gateway dies at random, and nothing is said or
done twice."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

import pytest

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.contract import OnBusy, Turn
from angarium.errors import OutcomeUnknown
from angarium.storage.contract import TURN_FINAL
from angarium.testing.agents import CONVERSATION, AgentWorld
from angarium.testing.fakes import Sent
from angarium.testing.mortal import Fate, reach_of, until_done_or_dead

RUNS = 200
PARTS = 4
PATIENCE = Patience(retry_min_s=0, retry_max_s=0, burst_quiet_s=0)
TEXTS = ("order", "more", "and this", "ask me", "quickly", "/stop", "order again", "/agents")


@dataclass
class Deeds:
    """What the agent really did, by turn."""

    paid: dict[int, Counter[str]] = field(default_factory=dict)
    faxed: Counter[int] = field(default_factory=Counter)


def make_shop(deeds: Deeds, fate: Fate, chance: random.Random, on_busy: OnBusy) -> Agent:
    shop = Agent("shop", "pays, faxes and asks", on_busy=on_busy)

    async def ticks() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        await fate.moment()

    @shop.on_turn
    async def handle(turn: Turn):
        async def pay(key: str) -> str:
            deeds.paid.setdefault(turn.sequence, Counter())[key] += 1
            await ticks()
            return "paid"

        async def fax(_key: str) -> str:
            deeds.faxed[turn.sequence] += 1
            await ticks()
            return "faxed"

        await ticks()
        if "ask" in turn.text:
            await turn.ask("For whom?")
        if "order" in turn.text:
            await turn.tools.call("pay", "keyed", pay, turn.sequence)
            await ticks()
            try:
                await turn.tools.call("fax", "once", fax, turn.sequence)
            except OutcomeUnknown:
                yield "perhaps "
        yield "done: "
        await ticks()
        yield turn.text

    return shop


async def run(seed: int, deaths: int, may_halve: bool) -> tuple[AgentWorld, Deeds, Fate]:
    chance = random.Random(seed)
    fate, deeds = Fate(may_halve), Deeds()
    on_busy = chance.choice(get_args(OnBusy))
    shop = make_shop(deeds, fate, chance, on_busy)

    async with AgentWorld([shop], reach=reach_of(fate), patience=PATIENCE) as world:
        fate.begin([chance.randrange(90) for _ in range(deaths)])
        for _ in range(chance.randrange(2, 6)):
            await deliver(world, fate, chance.choice(TEXTS))
            if chance.random() < 0.3:
                await come_to_rest(world, fate)
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
        await come_to_rest(world, fate)
        await check(world, deeds, may_halve)
    return world, deeds, fate


async def run_script(on_busy: OnBusy, deaths: list[int]) -> tuple[AgentWorld, Fate]:
    """A burst of three, then a question, its answer and one more."""
    fate, deeds = Fate(may_halve=True), Deeds()
    shop = make_shop(deeds, fate, random.Random(1), on_busy)

    async with AgentWorld([shop], reach=reach_of(fate), patience=PATIENCE) as world:
        fate.begin(deaths)
        for texts in (("one", "order", "more"), ("ask me",), ("Ada", "order")):
            for text in texts:
                await deliver(world, fate, text)
            await come_to_rest(world, fate)
        await check(world, deeds, may_halve=True)
    return world, fate


async def deliver(world: AgentWorld, fate: Fate, text: str) -> None:
    """The relay delivers a message until its receipt is durable."""
    received = world.write_message(text)
    while await world.store.turns.find(CONVERSATION, received.sequence) is None:
        await until_done_or_dead(world, fate, world.endpoint.receive(received))


async def come_to_rest(world: AgentWorld, fate: Fate) -> None:
    while not await until_done_or_dead(world, fate, world.gateway.idle()):
        pass


async def check(world: AgentWorld, deeds: Deeds, may_halve: bool) -> None:
    log = world.relay.log[CONVERSATION]
    replies = [sent for sent in log if sent.body.ref and sent.body.type == "text"]
    turns = {turn.sequence: turn for turn in await world.store.turns.list_recent(99)}
    assert_each_message_has_one_end(log, replies, turns, may_halve)
    for sequence, keys in deeds.paid.items():
        assert len(keys) == 1, f"turn {sequence} paid under {len(keys)} keys"
    assert all(count == 1 for count in deeds.faxed.values()), deeds.faxed


def assert_each_message_has_one_end(
    log: list[Sent], replies: list[Sent], turns, may_halve: bool
) -> None:
    answered = Counter(key for sent in replies for key in (sent.body.ref, *sent.body.refs))
    assert len({sent.key for sent in replies}) == len(replies)
    for sent in log:
        if sent.body.ref:
            continue
        turn, count = turns[sent.sequence], answered[sent.key]
        assert turn.state == "waiting" or turn.state in TURN_FINAL, turn
        if turn.state == "waiting":
            assert count == 0, f"{turn} waits and was answered"
        elif turn.state == "cancelled" and turn.reason != "busy":
            # Of a reply half written the text may have left when `/stop` found its turn open.
            assert count <= may_halve, f"{turn} was cancelled and answered"
        elif turn.reason.startswith("answers ") or turn.state == "merged":
            assert count <= 1, f"{turn} was answered {count} times"
        else:
            assert count == 1, f"{turn} was answered {count} times"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_in_200_runs_killed_at_random_each_message_has_one_end(part: int) -> None:
    struck = 0
    for seed in range(part, RUNS, PARTS):
        _, _, fate = asyncio.run(run(seed, deaths=1 + seed % 3, may_halve=seed % 2 == 1))
        struck += fate.struck
    assert struck > RUNS / PARTS / 2  # The kills did strike.


@pytest.mark.slow
@pytest.mark.parametrize("on_busy", get_args(OnBusy))
def test_a_burst_killed_at_every_moment_has_one_end_for_each_message(on_busy: OnBusy) -> None:
    _, fate = asyncio.run(run_script(on_busy, []))
    assert fate.moments > 30
    for moment in range(fate.moments):
        _, killed = asyncio.run(run_script(on_busy, [moment]))
        assert killed.struck == 1


def test_the_runs_do_all_that_they_are_about() -> None:
    """Without crashes, over some seeds: joined, interrupted, rejected, stopped, asked, paid."""
    ends, deeds_done = set(), [0, 0]
    for seed in range(60):
        world, deeds, _ = asyncio.run(run(seed, deaths=0, may_halve=False))
        ends |= {sent.body.type for sent in world.answers()}
        deeds_done[0] += len(deeds.paid)
        deeds_done[1] += deeds.faxed.total()
        ends |= {sent.body.text for sent in world.answers() if not sent.body.agent}
    assert {"question", "text", "Stopped."} <= ends
    assert min(deeds_done) > 20
