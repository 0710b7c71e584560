"""What is durable when: a crash inside a write, a server that is away, a device that closes."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from angarium.e2ee.body import Body
from angarium.errors import Fenced, Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.sdk import endpoint as endpoint_module
from angarium.sdk.contract import Received
from angarium.storage.contract import Fence, PutRecord, Record, Vault, Write

from .relay_in_memory import DirectApi, Notebook, World, world

BOB = UserId("@bob:test")
KEY = MessageKey("019a1b2c-0000-7000-8000-0000000000aa")


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with world() as made:
            await scenario(made)

    asyncio.run(whole())


class TornVault:
    """A store without transactions: of one write only the first `kept` parts reach it, and the
    device is gone."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.kept: int | None = None
        self.torn: Sequence[Write] = ()

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        return await self._vault.read(scope, prefix)

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        if self.kept is None:
            await self._vault.write(writes, fence)
        elif not self.torn:
            self.torn = tuple(writes)
            if self.kept:
                await self._vault.write(writes[: self.kept], fence)
            raise Fenced("the process is gone")
        else:
            raise Fenced("the process is gone")


@pytest.mark.slow
@pytest.mark.parametrize("kept", range(7))
def test_a_crash_inside_the_write_of_a_message_loses_and_repeats_nothing(kept: int) -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        await w.device("bob", for_bob)
        vault = TornVault(w.store.vault)
        whole, w.store = w.store, replace(w.store, vault=vault)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.sent(await ann.submit(c, Body(text="before")))
        await asyncio.sleep(0)

        vault.kept = kept
        note = PutRecord("mine", "answered", b"yes")
        with pytest.raises(Fenced):
            await ann.submit(c, Body(text="answer"), KEY, [note])
        assert len(vault.torn) >= 4, "ratchet, conversation, message, the program's part"
        await ann.close()
        if await whole.vault.read("mine"):
            assert await whole.vault.read(f"device/{ann.device}", f"out/{c}/{KEY}")

        w.store = whole
        again = await w.device("ann", Notebook(), device=ann.device)
        await again.submit(c, Body(text="answer"), KEY, [note])
        await again.submit(c, Body(text="after"))
        assert await for_bob.texts(3) == ["before", "answer", "after"]
        assert [shown.problem for shown in for_bob.shown] == ["", "", ""]
        assert len(await whole.vault.read("mine")) <= 1

    run(scenario)


class AbsentApi:
    """The API of a server that is away until it is `back`."""

    def __init__(self, api: DirectApi) -> None:
        self._api, self.back, self.asked = api, False, 0

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **named: Any) -> Any:
            self.asked += 1
            if not self.back:
                raise Unavailable("the server does not answer")
            return await getattr(self._api, name)(*args, **named)

        return call


def test_a_message_is_submitted_while_the_server_is_away_and_leaves_by_itself() -> None:
    async def scenario(w: World) -> None:
        for_bob = Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.sent(await ann.submit(c, Body(text="0")))
        ann._desk.keyring._api = api = AbsentApi(ann._desk.keyring._api)  # type: ignore[arg-type,assignment]
        w.connectors[ann.device].down = True
        w.connectors[ann.device].cut()
        for n in range(1, 4):
            await ann.submit(c, Body(text=str(n)))
        assert [shown.body.text for shown in for_bob.shown] == ["0"]

        api.back, w.connectors[ann.device].down = True, False
        assert await for_bob.texts(4) == ["0", "1", "2", "3"]

    run(scenario)


def test_a_device_started_while_the_server_is_away_takes_messages_for_known_people(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent: list[AbsentApi] = []

    def away(user: UserId, keys: Any, store: Any) -> AbsentApi:
        absent.append(AbsentApi(DirectApi(user, keys, store)))
        return absent[-1]

    async def scenario(w: World) -> None:
        for_bob = Notebook()
        await w.device("bob", for_bob)
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.sent(await ann.submit(c, Body(text="before")))
        await ann.close()
        monkeypatch.setitem(World.device.__globals__, "DirectApi", away)
        again = await w.device("ann", Notebook(), device=ann.device)
        await again.submit(c, Body(text="alone"))
        assert absent[-1].asked > 0
        assert await for_bob.texts(2) == ["before", "alone"]
        with pytest.raises(Unavailable):
            await again.submit(ConversationId("019a1b2c-0000-7000-8000-000000000077"), Body())

    run(scenario)


class StuckVault(TornVault):
    """Takes nothing once it is `stuck`, and never answers."""

    stuck = False

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        await super().write(writes, fence)


def test_who_waits_for_a_write_is_told_when_the_device_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_module, "CLOSE_WAIT_S", 0.01)

    async def scenario(w: World) -> None:
        await w.device("bob", Notebook())
        vault = StuckVault(w.store.vault)
        w.store = replace(w.store, vault=vault)
        ann = await w.device("ann", Notebook(), device=DeviceId("ANNSTUCK"))
        c = await ann.converse([BOB])
        await ann.submit(c, Body(text="before"))
        vault.stuck = True
        waiting = asyncio.create_task(ann.submit(c, Body(text="never durable")))
        for _ in range(20):
            await asyncio.sleep(0)
        await ann.close()
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await waiting

    run(scenario)


class Failing(Notebook):
    """A program that cannot take what came, and says "later" where nobody can wait."""

    def plan(self, received: Received) -> Sequence[Write]:
        raise Unavailable("later")


def test_a_device_that_can_take_nothing_more_in_ends_and_says_so() -> None:
    async def scenario(w: World) -> None:
        bob = await w.device("bob", Failing())
        ann = await w.device("ann", Notebook())
        c = await ann.converse([BOB])
        await ann.submit(c, Body(text="hello"))
        assert bob.ended is not None
        async with asyncio.timeout(5):
            error = await asyncio.shield(bob.ended)
        assert isinstance(error, Unavailable)

    run(scenario)
