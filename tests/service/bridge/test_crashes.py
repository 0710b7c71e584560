"""The bridge is killed at each thing it awaits; a new one goes on from the store alone."""

import asyncio
from typing import Any

import pytest

from angarium.testing.agents import OpenStore, in_memory


async def until_killed(world: Any, killed: type[BaseException]) -> bool:
    """Work until the bomb goes off (True) or all is done (False)."""
    try:
        await world.boot(world.bomb)
        await world.settle()
    except BaseExceptionGroup as group:
        if group.split(killed)[1] is not None:
            raise
        return True
    except killed:
        return True
    return False


async def journey(
    make_world: Any,
    bomb: Any,
    killed: Any,
    api: list[str],
    deaf: bool = False,
    open_store: OpenStore = in_memory,
) -> int:
    """One message and its two answers, with a kill; returns how many awaits there were."""
    async with make_world(open_store=open_store) as world:
        await world.bridge.close()
        world.relay.answer = two_answers
        world.phones.faults.api.extend(api)
        world.phones.faults.lose_statuses = deaf
        world.bomb = bomb
        await world.phones.say("hello")
        if await until_killed(world, killed):
            world.clock.advance(1.0)
            await world.boot()
            await world.settle()
        at = f"killed at await {bomb.at}, {'after' if bomb.after else 'before'} it happened"
        assert world.relay.texts() == ["hello"], at
        shown = [message.body for message in world.phones.on_phone()]
        assert shown == ["re: hello", "and more"], at
        states = sorted(delivery.state for delivery in await world.deliveries())
        assert states == (["sent", "sent"] if deaf else ["read", "read"]), at
        return int(bomb.count)


def two_answers(body: Any) -> list[Any]:
    return [type(body)(text="re: " + body.text), type(body)(text="and more")]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "api",
    [[], ["429"], ["500"], ["hang"], ["cut", "lost"]],
    ids=lambda api: "+".join(api) or "ok",
)
def test_killed_anywhere_it_delivers_once(
    make_world: Any, bomb: Any, killed: Any, api: list[str], after: bool
) -> None:
    async def scenario() -> None:
        awaits = await journey(make_world, bomb(), killed, api)
        assert awaits > 25, "the journey must be worth killing"
        for at in range(1, awaits + 1):
            await journey(make_world, bomb(at, after), killed, api)

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "every", [pytest.param(1, marks=[pytest.mark.cluster, pytest.mark.timeout(600)]), 6]
)
def test_killed_anywhere_it_delivers_once_on_mongodb(
    make_world: Any, bomb: Any, killed: Any, on_mongo: OpenStore, every: int
) -> None:
    async def scenario() -> None:
        awaits = await journey(make_world, bomb(), killed, [], open_store=on_mongo)
        for at in range(1, awaits + 1, every):
            after = at // every % 2 == 0
            await journey(make_world, bomb(at, after), killed, [], open_store=on_mongo)

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("api", [[], ["hang"]], ids=["ok", "hang"])
def test_killed_anywhere_it_delivers_once_even_when_no_status_ever_comes(
    make_world: Any, bomb: Any, killed: Any, api: list[str], after: bool
) -> None:
    async def scenario() -> None:
        awaits = await journey(make_world, bomb(), killed, api, deaf=True)
        for at in range(1, awaits + 1):
            await journey(make_world, bomb(at, after), killed, api, deaf=True)

    asyncio.run(scenario())


def test_killed_twice_in_a_row_it_delivers_once(
    make_world: Any, bomb: Any, killed: Any
) -> None:
    async def scenario() -> None:
        for first, second in [(12, 9), (20, 3), (25, 14), (30, 11), (17, 22)]:
            async with make_world() as world:
                await world.bridge.close()
                await world.phones.say("hello")
                for at in (first, second):
                    world.bomb = bomb(at, after=True)
                    await until_killed(world, killed)
                await world.boot()
                await world.settle()
                assert [message.body for message in world.phones.on_phone()] == ["re: hello"]
                assert world.relay.texts() == ["hello"]

    asyncio.run(scenario())


def test_a_second_bridge_stops_the_first_from_writing(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            first = world.bridge
            await world.phones.say("hello")
            world.clock.advance(60.0)  # The first has not renewed: its lease has run out.
            world.bridge = world.new_bridge()
            world.bridge._tenure.owner = "the other"
            await world.bridge.start()
            with pytest.raises(BaseExceptionGroup) as stopped:
                await first.work_inbox()
            assert "Fenced" in repr(stopped.value)
            assert world.relay.texts() == []
            await world.settle()
            assert [message.body for message in world.phones.on_phone()] == ["re: hello"]

    asyncio.run(scenario())
