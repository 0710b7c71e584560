import asyncio
from types import SimpleNamespace

import pytest

from angarium.agents import draft as module
from angarium.agents.draft import STILL_WORKING, Draft, Place
from angarium.limits import PART_CHARS_MAX, REPLY_BYTES_MAX, STATUSES_PER_TURN_MAX


class Wire:
    """The two things a draft does to an endpoint."""

    def __init__(self):
        self.parts, self.typed = [], []
        self.sent, self.beaten = asyncio.Event(), asyncio.Event()

    def part(self, conversation, ref, index, body, stream):
        self.parts.append((index, body.type, body.text))
        self.sent.set()

    def typing(self, conversation, on):
        self.typed.append(on)
        if len(self.typed) == 3:
            self.beaten.set()


def with_draft(scenario):
    async def run():
        wire = Wire()
        draft = Draft(wire, Place("c", "ref", b"key", "echo"))
        try:
            await scenario(draft, wire)
        finally:
            draft.close()
        return wire

    return asyncio.run(run())


def test_the_first_piece_leaves_as_soon_as_the_agent_waits():
    async def scenario(draft, wire):
        for letter in "abc":
            draft.add(letter)
        assert wire.parts == []
        await asyncio.sleep(0)
        assert wire.parts == [(0, "text", "abc")]

    with_draft(scenario)


def test_later_pieces_leave_joined_after_a_moment(monkeypatch):
    monkeypatch.setattr(module, "PART_EVERY_S", 0.001)

    async def scenario(draft, wire):
        draft.add("first")
        await wire.sent.wait()
        wire.sent.clear()
        for letter in "abc":
            draft.add(letter)
        await wire.sent.wait()
        assert wire.parts == [(0, "text", "first"), (1, "text", "abc")]

    with_draft(scenario)


def test_later_pieces_do_not_leave_before_their_time(monkeypatch):
    monkeypatch.setattr(module, "PART_EVERY_S", 60.0)

    async def scenario(draft, wire):
        draft.add("first")
        await wire.sent.wait()
        draft.add("second")
        for _ in range(5):
            await asyncio.sleep(0)
        assert wire.parts == [(0, "text", "first")]

    with_draft(scenario)


def test_an_agent_that_says_all_at_once_sends_only_its_reply():
    async def scenario(draft, wire):
        draft.add("all of it")
        draft.close()
        await asyncio.sleep(0)
        assert wire.parts == []

    with_draft(scenario)


def test_a_long_piece_leaves_at_once():
    async def scenario(draft, wire):
        draft.add("x" * PART_CHARS_MAX)
        assert len(wire.parts) == 1

    with_draft(scenario)


def test_text_leaves_before_a_status_that_follows_it():
    async def scenario(draft, wire):
        draft.add("a")
        draft.status("b")
        assert wire.parts == [(0, "text", "a"), (1, "status", "b")]
        assert draft.text == "a"

    with_draft(scenario)


def test_taking_starts_the_reply_anew():
    async def scenario(draft, wire):
        draft.add("said")
        assert draft.take() == "said"
        draft.add("more")
        assert draft.text == "more"

    with_draft(scenario)


def test_a_reply_without_end_does_not_fill_memory():
    async def scenario(draft, wire):
        for _ in range(3 * REPLY_BYTES_MAX // 1000):
            draft.add("x" * 1000)
        assert REPLY_BYTES_MAX < len(draft.text) <= REPLY_BYTES_MAX + 1000

    with_draft(scenario)


def test_statuses_are_bounded():
    async def scenario(draft, wire):
        for _ in range(STATUSES_PER_TURN_MAX + 5):
            draft.status("x")
        assert len(wire.parts) == STATUSES_PER_TURN_MAX

    with_draft(scenario)


def test_silence_is_filled_with_a_sign_of_work_and_typing_goes_on(monkeypatch):
    monkeypatch.setattr(module, "STILL_WORKING_S", 0.002)

    async def scenario(draft, wire):
        await wire.beaten.wait()
        assert wire.parts[0] == (0, "status", STILL_WORKING)

    with_draft(scenario)


def test_nothing_leaves_after_close(monkeypatch):
    monkeypatch.setattr(module, "PART_EVERY_S", 0.001)
    monkeypatch.setattr(module, "STILL_WORKING_S", 0.001)

    async def scenario(draft, wire):
        draft.add("x")
        draft.close()
        seen = SimpleNamespace(parts=len(wire.parts), typed=len(wire.typed))
        await asyncio.sleep(0.005)
        assert (len(wire.parts), len(wire.typed)) == (seen.parts, seen.typed)
        assert wire.typed[-1] is False

    with_draft(scenario)


@pytest.mark.parametrize("text", ["", None])
def test_empty_pieces_are_nothing(text):
    async def scenario(draft, wire):
        draft.add(text or "")
        assert draft.text == ""

    with_draft(scenario)
