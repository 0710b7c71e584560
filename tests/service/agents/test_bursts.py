"""What a message does that comes while a turn of its conversation is open."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.agents.agent import Agent
from angarium.agents.attempt import Patience
from angarium.agents.bursts import NOTHING_RUNS, STOPPED
from angarium.agents.contract import OnBusy, Status, Turn
from angarium.agents.guard import STILL_BUSY
from angarium.errors import Unavailable
from angarium.ids import UserId, reply_key
from angarium.limits import BURST_MESSAGES_MAX, TURN_TEXT_CHARS_MAX
from angarium.storage.contract import PutTurn
from angarium.testing.agents import CONVERSATION, PERSON, AgentWorld

QUIET_S = 0.05
PATIENCE = Patience(retry_min_s=0, retry_max_s=0, burst_quiet_s=0)
SLOW = Patience(retry_min_s=0, retry_max_s=0, burst_quiet_s=QUIET_S)


class Thinker:
    """An agent that answers only when told to; `texts` are what it was asked, by attempt."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.closed = 0
        self.go = asyncio.Event()
        self.thinking = asyncio.Event()

    async def think(self, turn: Turn) -> str:
        self.texts.append(turn.text)
        self.thinking.set()
        try:
            await self.go.wait()
        finally:
            self.closed += 1
        return f"[{turn.text}]"


def in_world(
    scenario: Callable[[AgentWorld, Thinker], Awaitable[None]],
    on_busy: OnBusy = "merge",
    function: Callable[[Turn, Thinker], Any] | None = None,
    patience: Patience = PATIENCE,
) -> None:
    async def run() -> None:
        thinker = Thinker()
        agent = Agent("agent", "for tests", on_busy=on_busy)
        if function is None:
            agent.on_turn(thinker.think)
        else:
            made = function

            @agent.on_turn
            async def _(turn: Turn) -> Any:
                async for piece in made(turn, thinker):
                    yield piece

        async with AgentWorld([agent], patience=patience) as world, asyncio.timeout(10):
            await scenario(world, thinker)

    asyncio.run(run())


async def write(world: AgentWorld, *texts: str, sender: UserId = PERSON) -> None:
    for text in texts:
        await world.endpoint.receive(world.write_message(text, sender=sender))


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


def said(world: AgentWorld) -> list[str]:
    return [sent.body.text for sent in world.answers()]


async def states(world: AgentWorld, *sequences: int) -> list[tuple[str, str]]:
    turns = [await world.turn(sequence) for sequence in sequences]
    return [(turn.state, turn.reason) for turn in turns]


# --- merge -----------------------------------------------------------------------------


def test_what_is_written_while_the_agent_thinks_is_answered_with_it():
    async def scenario(world, thinker):
        await write(world, "a table")
        await thinker.thinking.wait()
        await write(world, "for four")
        await settle()
        assert thinker.texts == ["a table", "a table\nfor four"]
        assert thinker.closed == 1
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["[a table\nfor four]"]
        assert await states(world, 1, 2) == [("replied", "default"), ("merged", "joined 1")]
        (sent,) = world.answers()
        first, second = world.relay.log[CONVERSATION][:2]
        assert (sent.body.ref, sent.body.refs) == (second.key, [first.key])
        assert sent.key == reply_key(CONVERSATION, 1, "agent", 0)
        assert (await world.turn(1)).attempts == 1

    in_world(scenario)


def test_a_message_that_comes_alone_is_begun_at_once():
    async def scenario(world, thinker):
        await write(world, "hello")
        await settle()
        assert thinker.texts == ["hello"]
        thinker.go.set()

    in_world(scenario, patience=Patience(burst_quiet_s=30))


def test_whoever_writes_in_pieces_is_waited_for():
    async def scenario(world, thinker):
        loop = asyncio.get_running_loop()
        thinker.go.set()
        world.gateway._lanes.halt()
        await write(world, "one", "two")
        world.gateway._lanes.open()
        await settle()
        assert thinker.texts == []
        await write(world, "three")
        began_s = loop.time()
        await world.gateway.idle()
        assert loop.time() - began_s >= QUIET_S * 0.9
        assert thinker.texts == ["one\ntwo\nthree"]

    in_world(scenario, patience=SLOW)


def test_what_comes_after_the_agent_has_spoken_is_the_next_turn():
    async def speaks(turn, thinker):
        yield "well, "
        thinker.thinking.set()
        await thinker.go.wait()
        yield turn.text

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two", "three")
        await settle()
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["well, one", "well, two\nthree"]

    in_world(scenario, function=speaks)


def test_what_comes_after_a_tool_with_an_effect_is_the_next_turn():
    keys = []

    async def pays(turn, thinker):
        async def pay(key):
            keys.append(key)
            return "paid"

        await turn.tools.call("pay", "keyed", pay)
        thinker.thinking.set()
        await thinker.go.wait()
        yield turn.text

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await settle()
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["one", "two"]
        assert len(keys) == 2

    in_world(scenario, function=pays)


def test_a_status_and_a_tool_that_reads_do_not_keep_the_rest_out():
    async def reads(turn, thinker):
        yield Status("looking")

        async def look(_key):
            return "seen"

        await turn.tools.call("look", "read", look)
        thinker.thinking.set()
        await thinker.go.wait()
        yield turn.text

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await settle()
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["one\ntwo"]

    in_world(scenario, function=reads)


def test_what_an_agent_kept_for_its_next_attempt_does_not_outlive_the_question():
    async def keeps(turn, thinker):
        before = turn.tools.kept("model")
        await turn.tools.keep("model", turn.text.encode())
        thinker.thinking.set()
        await thinker.go.wait()
        yield f"{turn.text} {before}"

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await settle()
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["one\ntwo None"]

    in_world(scenario, function=keeps)


@pytest.mark.parametrize("text", ["/agents", "@agent", "/reset"])
def test_commands_and_mentions_never_join(text):
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, text, "after it")
        await settle()
        assert thinker.texts == ["one"]
        thinker.go.set()
        await world.gateway.idle()
        assert said(world)[0] == "[one]"
        assert said(world)[-1] == "[after it]"

    in_world(scenario)


def test_somebody_elses_message_never_joins():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two", sender=UserId("@bob:test"))
        await write(world, "three")
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["[one]", "[two]", "[three]"]

    in_world(scenario)


def test_only_so_many_messages_join_and_all_are_answered():
    async def scenario(world, thinker):
        world.gateway._lanes.halt()
        texts = [str(number) for number in range(BURST_MESSAGES_MAX + 3)]
        await write(world, *texts)
        thinker.go.set()
        world.gateway._lanes.open()
        await world.gateway.idle()
        assert "\n".join(thinker.texts).split() == texts
        assert [len(text.split()) for text in thinker.texts] == [BURST_MESSAGES_MAX, 3]

    in_world(scenario)


def test_joined_messages_stay_within_what_an_agent_may_see():
    async def scenario(world, thinker):
        world.gateway._lanes.halt()
        half = "x" * (TURN_TEXT_CHARS_MAX // 2)
        await write(world, half, half, half)
        thinker.go.set()
        world.gateway._lanes.open()
        await world.gateway.idle()
        assert [len(text) for text in thinker.texts] == [len(half)] * 3

    in_world(scenario)


def test_a_join_that_was_written_half_is_completed_after_the_crash():
    """Of stores without transactions: the turn has the message, whose own record is open."""

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        offered = await world.turn(2)
        await settle()
        assert (await world.turn(2)).state == "merged"
        await world.kill()
        await world.store.vault.write([PutTurn(offered)])
        thinker.go.set()
        await world.start()
        await world.gateway.idle()
        assert said(world) == ["[one\ntwo]"]
        assert await states(world, 2) == [("merged", "joined 1")]

    in_world(scenario)


def test_a_join_survives_a_crash():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await settle()
        thinker.go.set()
        thinker.texts.clear()
        await world.restart()
        await world.gateway.idle()
        assert thinker.texts[-1] == "one\ntwo"
        assert said(world) == ["[one\ntwo]"]

    in_world(scenario)


def test_after_a_crash_nothing_joins_what_may_have_had_an_effect():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await world.restart()
        thinker.go.set()
        await write(world, "two")
        await world.gateway.idle()
        assert said(world) == ["[one]", "[two]"]

    in_world(scenario)


# --- enqueue, interrupt, reject ----------------------------------------------------------


def test_enqueue_answers_each_message_for_itself():
    async def scenario(world, thinker):
        await write(world, "one", "two")
        thinker.go.set()
        await write(world, "three")
        await world.gateway.idle()
        assert said(world) == ["[one]", "[two]", "[three]"]

    in_world(scenario, "enqueue")


def test_interrupt_ends_the_running_turn_and_answers_the_new_message():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await settle()
        assert (thinker.texts, thinker.closed) == (["one", "two"], 1)
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == ["[two]"]
        assert await states(world, 1, 2) == [
            ("cancelled", "interrupted by 2"),
            ("replied", "default"),
        ]
        await world.restart()
        await world.gateway.idle()
        assert said(world) == ["[two]"]

    in_world(scenario, "interrupt")


def test_the_next_answer_knows_what_was_interrupted():
    async def remembers(turn, thinker):
        thinker.thinking.set()
        if turn.text == "one":
            await asyncio.Event().wait()
        yield str(turn.history)

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await world.gateway.idle()
        assert said(world) == ["(('user', 'one'),)"]

    in_world(scenario, "interrupt", remembers)


def test_reject_answers_at_once_that_it_is_busy():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two")
        await settle()
        assert said(world) == [STILL_BUSY.sentence]
        assert thinker.texts == ["one"]
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == [STILL_BUSY.sentence, "[one]"]
        assert await states(world, 1, 2) == [("replied", "default"), ("cancelled", "busy")]

    in_world(scenario, "reject")


# --- /stop -----------------------------------------------------------------------------


@pytest.mark.parametrize("on_busy", ["merge", "enqueue", "interrupt", "reject"])
def test_stop_ends_the_running_turn(on_busy):
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, " /STOP ")
        await world.gateway.idle()
        assert (said(world), thinker.closed) == ([STOPPED], 1)
        assert await states(world, 1, 2) == [("cancelled", "/stop"), ("replied", "/stop")]
        thinker.go.set()
        await world.restart()
        assert await world.say("again") == ["[again]"]

    in_world(scenario, on_busy)


def test_stop_ends_what_waits_before_it_too():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "two", "/stop", "three")
        await settle()
        thinker.go.set()
        await world.gateway.idle()
        assert said(world) == [STOPPED, "[three]"]
        assert [state for state, _ in await states(world, 1, 2)] == ["cancelled"] * 2

    in_world(scenario, "enqueue")


def test_stop_with_nothing_to_stop_says_so():
    async def scenario(world, thinker):
        assert await world.say("/stop") == [NOTHING_RUNS]

    in_world(scenario)


def test_stop_ends_a_turn_that_waits_for_an_answer():
    async def asks(turn, thinker):
        yield await turn.ask("Sure?") if turn.text == "one" else turn.text

    async def scenario(world, thinker):
        assert await world.say("one") == ["Sure?"]
        assert await world.say("/stop") == [STOPPED]
        assert await states(world, 1) == [("cancelled", "/stop")]
        assert await world.say("yes") == ["yes"]

    in_world(scenario, function=asks)


def test_a_stop_whose_write_failed_stops_the_turn_all_the_same():
    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        submit, failures = world.endpoint.submit, [1]

        async def fails_once(*arguments, **named):
            if failures:
                failures.pop()
                raise Unavailable("away")
            return await submit(*arguments, **named)

        world.endpoint.submit = fails_once
        await write(world, "/stop")
        await world.gateway.idle()
        assert said(world) == [STOPPED]
        assert thinker.closed == len(thinker.texts)

    in_world(scenario)


def test_an_agent_that_does_not_end_when_told_to_is_left_behind(monkeypatch, caplog):
    monkeypatch.setattr("angarium.agents.attempt.AGENT_STOP_S", 0.01)
    monkeypatch.setattr("angarium.agents.turns.AGENT_STOP_S", 0.01)

    async def stubborn(turn, thinker):
        thinker.thinking.set()
        while not thinker.go.is_set():
            try:
                await thinker.go.wait()
            except asyncio.CancelledError:
                thinker.closed += 1
        yield "too late"

    async def scenario(world, thinker):
        await write(world, "one")
        await thinker.thinking.wait()
        await write(world, "/stop")
        await world.gateway.idle()
        assert said(world) == [STOPPED]
        assert "does not end when it is told to" in caplog.text
        thinker.go.set()
        await settle()
        assert said(world) == [STOPPED]

    in_world(scenario, function=stubborn)
