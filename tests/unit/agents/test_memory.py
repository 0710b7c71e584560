import asyncio

import pytest

from angarium.agents.memory import Memory, Notebook, Route, after_exchange
from angarium.clock import ManualClock
from angarium.errors import SealBroken, TooLarge
from angarium.limits import HISTORY_CHARS_MAX, HISTORY_EXCHANGES_MAX, MEMORY_BYTES_MAX
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.fakes import FixedKeySealer


def with_vault(scenario):
    async def run():
        opened = await open_sqlite(None, ManualClock(), inline=True)
        try:
            await scenario(opened.store.vault)
        finally:
            await opened.close()

    asyncio.run(run())


def test_what_was_noted_is_found_again_per_conversation_and_agent():
    async def scenario(vault):
        book = Notebook(vault, FixedKeySealer(), "gateway/G")
        memory = Memory({"order": "1001", "tags": [1, 2]}, [("user", "hi")])
        route = Route("orders", (7,), disclosed=True)
        notes = await book.load("c1")
        writes = book.put_memory(notes, "orders", memory)
        await vault.write([book.put_route("c1", route), *writes])
        notes = await book.load("c1")
        assert notes.route == route
        assert notes.memories == {"orders": memory}
        assert (await book.load("c2")).memories == {}

    with_vault(scenario)


def test_a_copy_may_be_changed_without_changing_what_is_remembered():
    async def scenario(vault):
        book = Notebook(vault, FixedKeySealer(), "gateway/G")
        await vault.write(book.put_memory(await book.load("c"), "a", Memory({"list": [1]})))
        notes = await book.load("c")
        notes.memory("a").kept["list"].append(2)
        assert notes.memory("a").kept == {"list": [1]}

    with_vault(scenario)


def test_forgetting_removes_every_agents_memory():
    async def scenario(vault):
        book = Notebook(vault, FixedKeySealer(), "gateway/G")
        for agent in "ab":
            await vault.write(book.put_memory(await book.load("c"), agent, Memory({"x": 1})))
        await vault.write(book.forget(await book.load("c")))
        assert (await book.load("c")).memories == {}

    with_vault(scenario)


def test_a_record_moved_to_another_conversation_does_not_open():
    async def scenario(vault):
        book = Notebook(vault, FixedKeySealer(), "gateway/G")
        moved = book.put_memory(await book.load("c1"), "a", Memory({"x": 1}))[-1]
        await vault.write([type(moved)(moved.scope, "c2/memory/a", moved.blob)])
        with pytest.raises(SealBroken):
            await book.load("c2")

    with_vault(scenario)


def test_memory_over_its_bound_is_refused():
    async def scenario(vault):
        book = Notebook(vault, FixedKeySealer(), "gateway/G")
        notes = await book.load("c")
        with pytest.raises(TooLarge, match=r"turn\.memory of 'a'"):
            book.put_memory(notes, "a", Memory({"x": "y" * MEMORY_BYTES_MAX}))

    with_vault(scenario)


def test_history_keeps_the_newest_exchanges_cut():
    memory = Memory()
    for n in range(HISTORY_EXCHANGES_MAX + 5):
        said = (("user", f"{n}"), ("agent", "x" * (HISTORY_CHARS_MAX + 1)))
        memory = after_exchange(memory, {}, said)
    assert len(memory.history) == 2 * HISTORY_EXCHANGES_MAX
    assert memory.history[0] == ("user", "5")
    assert len(memory.history[-1][1]) == HISTORY_CHARS_MAX


def test_an_empty_reply_is_no_history():
    assert after_exchange(Memory(), {}, (("user", "a"), ("agent", ""))).history == [
        ("user", "a")
    ]
