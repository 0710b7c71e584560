"""What is kept of requests is bounded, sealed, and dropped in time."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from angarium.agents.shelf import Kept, Shelf
from angarium.clock import ManualClock
from angarium.ids import UserId
from angarium.limits import (
    KEPT_REQUEST_BYTES_MAX,
    KEPT_REQUEST_S,
    KEPT_REQUESTS_PER_PERSON_MAX,
    KEPT_SWEPT_BACK_S,
)
from angarium.storage.contract import PutRecord, Store
from angarium.testing.agents import in_memory
from angarium.testing.fakes import FixedKeySealer

ADA, BO = UserId("@ada:x"), UserId("@bo:x")


class World:
    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.shelf = Shelf(store.vault, FixedKeySealer(), clock)

    def kept(self, text: str = "hi", **more: object) -> Kept:
        made = Kept("echo", text, [("user", text)], 0, "c", "k", self.clock.now_ms())
        return msgspec.structs.replace(made, **more)

    async def texts(self, *names: str, user: UserId = ADA) -> list[str | None]:
        found = [await self.shelf.find(user, name) for name in names]
        return [kept.text if kept else None for kept in found]


def in_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = ManualClock()
        opened = await in_memory(clock)
        try:
            await scenario(World(opened.store, clock))
        finally:
            await opened.close()

    asyncio.run(run())


def test_what_was_put_is_found_by_its_owner_alone() -> None:
    async def scenario(world: World) -> None:
        await world.shelf.put(ADA, "r1", world.kept("one"))
        assert await world.texts("r1", "r2") == ["one", None]
        assert await world.texts("r1", user=BO) == [None]

    in_world(scenario)


def test_the_same_name_is_replaced() -> None:
    async def scenario(world: World) -> None:
        for text in ("one", "two"):
            world.clock.advance(1)
            await world.shelf.put(ADA, "r1", world.kept(text))
        assert await world.texts("r1") == ["two"]
        assert await world.shelf.drop(ADA, "r1")
        assert await world.texts("r1") == [None]
        assert not await world.shelf.drop(ADA, "r1")

    in_world(scenario)


def test_the_oldest_goes_when_there_are_too_many() -> None:
    async def scenario(world: World) -> None:
        names = [f"r{number}" for number in range(KEPT_REQUESTS_PER_PERSON_MAX + 2)]
        await world.shelf.put(BO, "b", world.kept("bo's"))
        for name in names:
            world.clock.advance(1)
            await world.shelf.put(ADA, name, world.kept(name))
        assert await world.texts(*names) == [None, None, *names[2:]]
        assert await world.texts("b", user=BO) == ["bo's"]

    in_world(scenario)


def test_what_is_too_large_loses_its_oldest_exchanges() -> None:
    async def scenario(world: World) -> None:
        history = [("user", str(number) + "x" * 9000) for number in range(20)]
        await world.shelf.put(ADA, "r", world.kept(history=history, before=19))
        found = await world.shelf.find(ADA, "r")
        assert found is not None
        assert 0 < len(msgspec.msgpack.encode(found)) <= KEPT_REQUEST_BYTES_MAX
        assert found.history == history[-len(found.history) :]
        assert found.before == len(found.history) - 1

    in_world(scenario)


def test_time_over_means_gone_at_once_and_dropped_at_the_next_sweep() -> None:
    async def scenario(world: World) -> None:
        await world.shelf.put(ADA, "old", world.kept())
        world.clock.advance(3600)
        await world.shelf.put(BO, "new", world.kept("new"))
        world.clock.advance(KEPT_REQUEST_S - 3600)
        assert await world.texts("old") == [None]
        assert await world.texts("new", user=BO) == ["new"]
        world.clock.advance(3600)
        assert await world.shelf.sweep() >= 1
        world.clock.advance(3600)
        await world.shelf.sweep()
        assert await world.shelf.sweep() == 0
        assert await world.store.vault.read("requests-due") == []

    in_world(scenario)


def test_a_sweep_after_a_long_silence_finds_what_is_over() -> None:
    async def scenario(world: World) -> None:
        await world.shelf.put(ADA, "old", world.kept())
        world.clock.advance(KEPT_REQUEST_S + KEPT_SWEPT_BACK_S - 7200)
        assert await world.shelf.sweep() == 1

    in_world(scenario)


def test_one_person_is_forgotten_whole() -> None:
    async def scenario(world: World) -> None:
        for user in (ADA, BO):
            await world.shelf.put(user, "r", world.kept())
        await world.shelf.forget(ADA)
        assert await world.texts("r") == [None]
        assert await world.texts("r", user=BO) == ["hi"]

    in_world(scenario)


def test_a_record_that_does_not_open_counts_as_gone() -> None:
    async def scenario(world: World) -> None:
        await world.shelf.put(ADA, "r", world.kept())
        (due,) = await world.store.vault.read("requests-due")
        scope = due.key.partition("/")[2]
        (record,) = await world.store.vault.read(scope)
        changed = record.blob[:-1] + bytes([record.blob[-1] ^ 1])
        await world.store.vault.write([PutRecord(scope, record.key, changed)])
        assert await world.texts("r") == [None]

    in_world(scenario)
