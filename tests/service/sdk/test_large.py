"""Large messages: several at once travel apart; one that cannot travel is refused."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from angarium.e2ee.body import Body
from angarium.errors import Busy, TooLarge
from angarium.ids import UserId
from angarium.sdk import outgoing as outgoing_module

from .relay_in_memory import Notebook, World, world

BOB = UserId("@bob:test")
LARGE = "x" * 40_000


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with world() as made:
            await scenario(made)

    asyncio.run(whole())


@pytest.mark.slow
def test_many_large_messages_at_once_arrive_and_end_nobody() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        bob = await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        w.connectors[ann.device].cut()
        for n in range(8):
            await ann.submit(c, Body(text=f"{n}{LARGE}"))
        assert [text[0] for text in await for_bob.texts(8)] == list("01234567")
        assert (ann.error, bob.error) == (None, None)

    run(scenario)


@pytest.mark.slow
def test_a_message_too_large_for_its_many_devices_is_refused_and_the_next_one_goes() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        bob = await w.device("bob", for_bob)
        for _ in range(5):
            await w.device("bob", Notebook(), identity_of=bob._desk.engine)  # type: ignore[arg-type]
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        with pytest.raises(TooLarge):
            await ann.submit(c, Body(text=LARGE))
        await ann.submit(c, Body(text="short"))
        assert await for_bob.texts(1) == ["short"]
        assert for_bob.shown[0].gap == 0
        assert ann.error is None

    run(scenario)


def test_what_waits_to_be_sent_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing_module, "OUTBOX_WAITING_MAX", 3)

    async def scenario(w: World) -> None:
        for_bob, for_ann = Notebook(), Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", for_ann)
        c = await ann.converse([BOB])
        await ann.sent(await ann.submit(c, Body(text="0")))
        await for_ann.texts(1)  # Seen in the log: it waits no more.
        w.connectors[ann.device].down = True
        w.connectors[ann.device].cut()
        for n in (1, 2, 3):
            await ann.submit(c, Body(text=str(n)))
        with pytest.raises(Busy):
            await ann.submit(c, Body(text="one too many"))
        w.connectors[ann.device].down = False
        assert await for_bob.texts(4) == ["0", "1", "2", "3"]

    run(scenario)
