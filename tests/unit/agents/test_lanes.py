import asyncio
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from angarium.agents.lanes import Lanes


class Recorder:
    """Work that can be held up; knows how much of it runs at once."""

    def __init__(self):
        self.done = defaultdict(list)
        self.running = defaultdict(int)
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.at_start = lambda conversation: None
        self.refills = 0

    async def work(self, conversation, sequence):
        self.at_start(conversation)
        self.running[conversation] += 1
        assert self.running[conversation] == 1, "two turns of one conversation at once"
        self.most_at_once = max(self.most_at_once, sum(self.running.values()))
        await self.gate.wait()
        await asyncio.sleep(0)
        self.running[conversation] -= 1
        self.done[conversation].append(sequence)

    async def refill(self):
        self.refills += 1


def lanes_of(recorder, **bounds):
    lanes = Lanes(recorder.work, refill=recorder.refill, **bounds)
    lanes.open()
    return lanes


def test_a_conversation_is_worked_off_in_the_order_woken():
    async def scenario():
        recorder = Recorder()
        lanes = lanes_of(recorder)
        for sequence in (3, 1, 2):
            lanes.wake("c", sequence)
        recorder.gate.set()
        await lanes.idle()
        assert recorder.done == {"c": [3, 1, 2]}

    asyncio.run(scenario())


def test_no_more_run_at_once_than_allowed_and_none_when_idle():
    async def scenario():
        recorder = Recorder()
        lanes = lanes_of(recorder, at_once=3)
        for n in range(10):
            lanes.wake(f"c{n}", 1)
        await asyncio.sleep(0)
        assert lanes.running == 3
        recorder.gate.set()
        await lanes.idle()
        await asyncio.sleep(0)
        assert (recorder.most_at_once, lanes.running, lanes.held) == (3, 0, 0)

    asyncio.run(scenario())


def test_waking_what_already_waits_changes_nothing():
    async def scenario():
        recorder = Recorder()
        lanes = lanes_of(recorder)
        lanes.wake("c", 1)
        lanes.wake("c", 1)
        recorder.gate.set()
        await lanes.idle()
        assert recorder.done == {"c": [1]}

    asyncio.run(scenario())


def test_what_is_over_the_bound_is_left_to_the_refill():
    async def scenario():
        recorder = Recorder()
        lanes = lanes_of(recorder, held_max=2)
        for sequence in range(1, 6):
            lanes.wake("c", sequence)
        assert lanes.held == 2
        recorder.gate.set()
        await lanes.idle()
        assert recorder.done == {"c": [1, 2]}
        assert recorder.refills == 1

    asyncio.run(scenario())


def test_later_work_does_not_overtake_what_was_left_out():
    async def scenario():
        recorder = Recorder()
        lanes = lanes_of(recorder, held_max=2, at_once=1)
        lanes.wake("a", 1)
        lanes.wake("b", 1)
        lanes.wake("b", 2)  # Left out: full.
        recorder.gate.set()
        held = []

        def third(conversation):
            if conversation == "b":
                held.append(lanes.held)
                lanes.wake("b", 3)  # There is room again, but 2 comes first.

        recorder.at_start = third
        await lanes.idle()
        assert held == [1]
        assert recorder.done["b"] == [1]

    asyncio.run(scenario())


def test_nothing_starts_before_open_or_after_halt():
    async def scenario():
        recorder = Recorder()
        recorder.gate.set()
        lanes = Lanes(recorder.work, refill=recorder.refill)
        lanes.wake("c", 1)
        await asyncio.sleep(0.001)
        assert not recorder.done
        lanes.open()
        await lanes.idle()
        lanes.halt()
        lanes.wake("c", 2)
        await asyncio.sleep(0.001)
        assert recorder.done == {"c": [1]}

    asyncio.run(scenario())


def test_close_cancels_what_runs_and_waits_for_it():
    async def scenario():
        recorder = Recorder()
        lanes = lanes_of(recorder)
        lanes.wake("c", 1)
        await asyncio.sleep(0)
        await lanes.close()
        assert lanes.running == 0
        assert not recorder.done

    asyncio.run(scenario())


WAKES = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40)


@given(WAKES, st.integers(1, 3))
@settings(max_examples=60)
def test_any_mix_of_wakes_and_pauses_is_worked_off_in_order(wakes, at_once):
    async def scenario():
        recorder = Recorder()
        recorder.gate.set()
        lanes = lanes_of(recorder, at_once=at_once)
        woken = defaultdict(list)
        for sequence, (conversation, pause) in enumerate(wakes):
            lanes.wake(conversation, sequence)
            woken[conversation].append(sequence)
            if pause:
                await asyncio.sleep(0)
        await asyncio.wait_for(lanes.idle(), 5)
        assert recorder.done == woken

    asyncio.run(scenario())
