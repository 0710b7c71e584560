"""What the provider may answer, and what becomes of the delivery."""

import asyncio
from typing import Any

import pytest

from angarium.channels.contract import StatusUpdate
from angarium.e2ee.body import Body
from angarium.limits import OUTBOX_ATTEMPTS, OUTBOX_KEPT_S


def shown(world: Any) -> list[str]:
    return [message.body for message in world.phones.on_phone()]


async def deliver(world: Any, *faults: str) -> Any:
    world.phones.faults.api.extend(faults)
    await world.phones.say("hello")
    await world.settle()
    return (await world.deliveries())[0]


@pytest.mark.parametrize(
    "fault", ["429", "63018", "20429", "500", "503", "hang", "cut", "lost"]
)
def test_a_passing_fault_delivers_once_in_the_end(make_world: Any, fault: str) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            delivery = await deliver(world, fault)
            assert shown(world) == ["re: hello"]
            assert delivery.state == "read"
            expected = 1 if fault in ("hang", "cut") else 2
            assert delivery.attempts == expected

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ("63016", "refused", "window_closed:63016"), ("21610", "failed", "21610"),
        ("63024", "failed", "63024"), ("21211", "failed", "21211"),
        ("99999", "failed", "99999"),
    ],
)  # fmt: skip
def test_a_final_refusal_is_recorded_and_does_not_block_the_next(
    make_world: Any, code: str, state: str, reason: str
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.relay.answer = lambda body: [Body(text="first"), Body(text="second")]
            world.phones.faults.api.append(code)
            await world.phones.say("hello")
            await world.settle()
            first = next(d for d in await world.deliveries() if d.order == 200)
            assert (first.state, first.reason, first.attempts) == (state, reason, 1)
            assert shown(world) == ["second"]

    asyncio.run(scenario())


def test_an_alarm_stops_all_sending_until_it_is_over(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.phones.faults.api.append("63007")
            await world.phones.say("hello")
            for _ in range(3):
                await world.turn()
            assert world.bridge.outbox.alarm == "63007"
            await world.phones.say("other", "+15550007777")
            for _ in range(3):
                await world.turn()
            assert len(world.phones.shown) == 0
            await world.settle()
            assert world.bridge.outbox.alarm == ""
            assert len(world.phones.shown) == 2

    asyncio.run(scenario())


def test_attempts_are_bounded(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            delivery = await deliver(world, *["63018"] * 20)
            assert (delivery.state, delivery.reason) == ("failed", "63018")
            assert delivery.attempts == OUTBOX_ATTEMPTS

    asyncio.run(scenario())


def test_a_provider_that_is_away_too_long_lets_the_delivery_end(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.api_down = True
            await world.phones.say("hello")
            await world.settle(step_s=120.0)
            (delivery,) = await world.deliveries()
            assert (delivery.state, delivery.reason) == ("expired", "too_late")
            assert (delivery.attempts, shown(world)) == (0, [])

    asyncio.run(scenario())


def test_a_provider_that_comes_back_after_an_hour_gets_the_delivery(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.api_down = True
            await world.phones.say("hello")
            for _ in range(240):
                await world.turn()
                world.clock.advance(15.0)
            world.api_down = False
            await world.settle()
            assert shown(world) == ["re: hello"]

    asyncio.run(scenario())


def test_an_old_delivery_expires_unsent(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("hello")
            await world.bridge.work_inbox()
            await world.relay.pump()
            world.clock.advance(OUTBOX_KEPT_S + 1)
            await world.settle()
            (delivery,) = await world.deliveries()
            assert (delivery.state, delivery.reason) == ("expired", "too_late")

    asyncio.run(scenario())


def test_an_unknown_outcome_is_never_resent_while_the_list_cannot_be_read(
    make_world: Any,
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.phones.faults.api.append("lost")
            await world.phones.say("hello")
            await world.turn()
            world.api_down = True
            for _ in range(60):
                await world.turn()
                world.clock.advance(60.0)
            (delivery,) = await world.deliveries()
            assert (delivery.state, delivery.attempts) == ("unknown", 1)
            world.clock.advance(OUTBOX_KEPT_S)
            await world.settle()
            (delivery,) = await world.deliveries()
            assert (delivery.state, delivery.reason) == ("failed", "outcome_unknown")

    asyncio.run(scenario())


def test_the_same_words_sent_before_are_not_taken_for_the_lost_message(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.relay.answer = lambda body: [Body(text="OK")]
            world.phones.faults.api.extend(["ok", "lost"])
            await world.phones.say("one")
            await world.phones.say("two")
            await world.settle()
            assert shown(world) == ["OK", "OK"]
            assert len({d.provider_id for d in await world.deliveries()}) == 2

    asyncio.run(scenario())


def test_statuses_only_move_forward(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            delivery = await deliver(world)
            for status in ("queued", "sent", "delivered", "failed"):
                await world.bridge.outbox.apply(
                    StatusUpdate(delivery.provider_id, status)  # type: ignore[arg-type]
                )
            assert (await world.deliveries())[0].state == "read"

    asyncio.run(scenario())


def test_a_failure_reported_later_is_tried_again_or_recorded(make_world: Any) -> None:
    async def scenario() -> None:
        for code, bodies, state in [("63018", 2, "read"), ("63024", 1, "failed")]:
            async with make_world() as world:
                world.phones.offline.add("+15550001234")
                delivery = await deliver(world)
                assert delivery.state == "sent"
                world.phones.offline.clear()
                await world.phones.fail(world.phones.shown[0], code)
                await world.settle()
                delivery = (await world.deliveries())[0]
                assert (len(shown(world)), delivery.state) == (bodies, state)
                late = StatusUpdate(world.phones.shown[0].sid, "sent", delivery=delivery.id)
                await world.bridge.outbox.apply(late)
                assert (await world.deliveries())[0].state == state

    asyncio.run(scenario())


def test_a_status_about_nothing_of_ours_is_finished(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            assert not await world.bridge.outbox.apply(StatusUpdate("SM0", "sent"))
            unknown = StatusUpdate("SM0", "sent", delivery="nothing")
            assert not await world.bridge.outbox.apply(unknown)

    asyncio.run(scenario())


def test_one_contact_is_sent_at_most_the_burst_and_then_one_in_six_seconds(
    make_world: Any,
) -> None:
    async def scenario() -> None:
        async with make_world(policy_options={"pair_burst": 3}) as world:
            await world.bridge.close()
            await world.boot()
            world.relay.answer = lambda body: [Body(text=f"{index}") for index in range(6)]
            await world.phones.say("go")
            began_ms = world.clock.now_ms()
            await world.settle()
            assert shown(world) == [str(index) for index in range(6)]
            assert world.clock.now_ms() - began_ms >= 3 * 6000

    asyncio.run(scenario())
