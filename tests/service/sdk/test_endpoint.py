"""Devices over the real messaging service in memory."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from angarium.e2ee.body import Body
from angarium.errors import Undecryptable, UnverifiedDevice
from angarium.ids import MessageKey, UserId, uuid7
from angarium.storage.contract import PutRecord

from .relay_in_memory import CLOCK, Notebook, World, world

BOB = UserId("@bob:test")


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with world() as made:
            await scenario(made)

    asyncio.run(whole())


def test_a_message_arrives_once_at_both_ends_and_is_confirmed() -> None:
    async def scenario(w: World) -> None:
        for_bob, for_ann = Notebook(), Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", for_ann)
        c = await ann.converse([BOB])
        key = await ann.submit(c, Body(text="hello"))
        assert (await ann.sent(key)).sequence == 1
        assert await for_bob.texts(1) == ["hello"]
        assert await for_ann.texts(1) == ["hello"]
        assert for_ann.shown[0].own
        assert not for_bob.shown[0].own

    run(scenario)


def test_both_write_and_each_reads_the_other_in_order() -> None:
    async def scenario(w: World) -> None:
        for_bob, for_ann = Notebook(), Notebook()
        bob = await w.device("bob", for_bob)
        ann = await w.device("ann", for_ann)
        c = await ann.converse([BOB])
        for number in range(5):
            await ann.submit(c, Body(text=f"a{number}"))
        await for_bob.texts(5)
        for number in range(5):
            await bob.submit(c, Body(text=f"b{number}"))
        wanted = [f"a{n}" for n in range(5)] + [f"b{n}" for n in range(5)]
        assert await for_ann.texts(10) == wanted
        assert await for_bob.texts(10) == wanted
        assert [shown.problem for shown in for_bob.shown] == [""] * 10

    run(scenario)


def test_the_same_key_submitted_twice_is_sent_once() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        key = MessageKey(uuid7(CLOCK.now_ms()))
        await asyncio.gather(*(ann.submit(c, Body(text="once"), key) for _ in range(3)))
        await ann.sent(key)
        await ann.submit(c, Body(text="once"), key)
        await ann.submit(c, Body(text="after"))
        assert await for_bob.texts(2) == ["once", "after"]

    run(scenario)


def test_what_the_program_adds_is_written_with_the_message() -> None:
    async def scenario(w: World) -> None:
        await w.device("bob", Notebook())
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.submit(c, Body(text="x"), also=[PutRecord("mine", "note", b"kept")])
        assert [record.blob for record in await w.store.vault.read("mine")] == [b"kept"]

    run(scenario)


def test_a_cut_connection_loses_nothing_and_repeats_nothing() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        bob = await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.submit(c, Body(text="0"))
        await for_bob.texts(1)
        w.connectors[bob.device].cut()
        w.connectors[ann.device].cut()
        for number in range(1, 4):
            await ann.submit(c, Body(text=str(number)))
        assert await for_bob.texts(4) == ["0", "1", "2", "3"]

    run(scenario)


def test_a_restarted_device_goes_on_where_it_stood() -> None:
    async def scenario(w: World) -> None:
        first, second = Notebook(), Notebook()
        bob = await w.device("bob", first)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.submit(c, Body(text="before"))
        await first.texts(1)
        await bob.close()
        await ann.submit(c, Body(text="meanwhile"))
        again = await w.device("bob", second, device=bob.device)
        assert await second.texts(1) == ["meanwhile"]
        await again.submit(c, Body(text="back"))
        assert await second.texts(2) == ["meanwhile", "back"]

    run(scenario)


def test_what_was_submitted_before_a_crash_is_sent_after_it() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.sent(await ann.submit(c, Body(text="0")))
        w.connectors[ann.device].down = True
        w.connectors[ann.device].cut()
        key = await ann.submit(c, Body(text="1"))
        await ann.close()
        again = await w.device("ann", Notebook(), device=ann.device)
        assert (await again.sent(key)).sequence == 2
        assert await for_bob.texts(2) == ["0", "1"]

    run(scenario)


def test_a_new_device_is_not_forgotten_by_who_wrote_before() -> None:
    async def scenario(w: World) -> None:
        first, second = Notebook(), Notebook()
        bob = await w.device("bob", first)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.sent(await ann.submit(c, Body(text="one device")))
        await w.device("bob", second, identity_of=bob._desk.engine)  # type: ignore[arg-type]
        await ann.sent(await ann.submit(c, Body(text="two devices")))
        assert await first.texts(2) == ["one device", "two devices"]
        assert await second.texts(2) == ["", "two devices"]
        assert second.shown[0].problem == Undecryptable.code
        assert [shown.addressed for shown in second.shown] == [False, True]

    run(scenario)


def test_parts_of_a_streamed_reply_open_under_the_key_of_the_question() -> None:
    async def scenario(w: World) -> None:
        for_bob, for_ann = Notebook(), Notebook()
        bob = await w.device("bob", for_bob)
        ann = await w.device("ann", for_ann)
        c = await ann.converse([BOB])
        key = await ann.submit(c, Body(text="question"))
        await for_bob.texts(1)
        bob.part(c, key, 0, Body(text="par"), for_bob.shown[0].stream)
        part = await for_ann.event("part")
        assert part.body is not None
        assert (part.ref, part.index, part.body.text) == (key, 0, "par")

    run(scenario)


def test_typing_and_reading_are_told() -> None:
    async def scenario(w: World) -> None:
        for_bob, for_ann = Notebook(), Notebook()
        bob = await w.device("bob", for_bob)
        ann = await w.device("ann", for_ann)
        c = await ann.converse([BOB])
        await ann.submit(c, Body(text="x"))
        await for_bob.texts(1)
        bob.typing(c, True)
        assert (await for_ann.event("typing")).on
        bob.mark_read(c, 1)
        assert (await for_ann.event("read")).sequence == 1

    run(scenario)


def test_nobody_without_a_trusted_device_is_written_to() -> None:
    async def scenario(w: World) -> None:
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        with pytest.raises(UnverifiedDevice):
            await ann.submit(c, Body(text="x"))

    run(scenario)


def test_more_than_credit_and_flight_limits_arrives_whole_and_in_order() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await asyncio.gather(*(ann.submit(c, Body(text=str(n))) for n in range(300)))
        assert await for_bob.texts(300) == [str(n) for n in range(300)]

    run(scenario)
