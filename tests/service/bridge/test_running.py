"""The bridge by itself: woken by webhooks and answers, stopped, taken over."""

import asyncio
from typing import Any

from angarium.bridge.bridge import LOOK_EVERY_S
from angarium.errors import LeaseTaken
from angarium.testing.simulation.loop import VirtualLoop, run


async def reached(condition: Any, ticks_max: int = 20_000) -> None:
    """Let the loop run until the condition holds; time does not pass."""
    for _ in range(ticks_max):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


def test_it_runs_by_itself_and_stops_cleanly(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.bridge.close()
            bridge = world.bridge = world.new_bridge()
            running = asyncio.create_task(bridge.run())
            await reached(lambda: bridge.working)
            for text in ("one", "two"):
                await world.phones.say(text)
                bridge.wake()
                await reached(lambda text=text: text in world.relay.texts())
                await world.relay.pump()
                await reached(
                    lambda text=text: (
                        f"re: {text}" in [message.body for message in world.phones.on_phone()]
                    )
                )
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert running.cancelled()
            assert not bridge.working
            assert world.relay.open == {}
            await world.boot()
            await world.settle()
            assert len(world.phones.on_phone()) == 2

    asyncio.run(scenario())


def test_a_webhook_that_another_process_stored_is_worked_within_a_second(
    make_world: Any,
) -> None:
    """Whichever bridge the provider reaches, standing by or not, stores it; no bus tells."""

    async def scenario(_: VirtualLoop) -> None:
        async with make_world() as world:
            await world.bridge.close()
            world.bridge = world.new_bridge()
            running = asyncio.create_task(world.bridge.run())
            await asyncio.sleep(3.3 * LOOK_EVERY_S)
            await world.phones.say("hello")
            await asyncio.sleep(1.0)
            assert world.relay.texts() == ["hello"]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    run(None, scenario)


def test_only_one_works_and_the_next_takes_over_when_it_stops(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            second = world.new_bridge()
            second._tenure.owner = "another"
            try:
                await second.start()
            except LeaseTaken:
                pass
            else:
                raise AssertionError("two bridges hold one lease")
            await world.bridge.close()
            await second.start()
            world.bridge = second
            await world.phones.say("hello")
            await world.settle()
            assert [message.body for message in world.phones.on_phone()] == ["re: hello"]

    asyncio.run(scenario())
