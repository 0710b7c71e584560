"""Contacts' devices that end, fail, close and make room; and who hears notices."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.bridge.inbound import NOT_READABLE, STARTED, STOPPED, TOO_FAST
from angarium.errors import Busy, Fenced, Replaced, Unauthenticated, Unavailable
from angarium.errors import UnverifiedDevice as Unverified
from angarium.limits import CONTACT_IDLE_S

A, B = "+15550001234", "+15550009999"


def bodies(world: Any, number: str = A) -> list[str]:
    return [message.body for message in world.phones.on_phone(number)]


def in_world(make_world: Any, scenario: Callable[[Any], Awaitable[None]]) -> None:
    async def run() -> None:
        async with make_world() as world, asyncio.timeout(20):
            await scenario(world)

    asyncio.run(run())


# --- devices that end ------------------------------------------------------------------


@pytest.mark.parametrize("ended_by", [Replaced("4409"), Unauthenticated("4401")])
def test_a_device_that_ends_while_an_answer_is_expected_is_opened_anew(
    make_world: Any, ended_by: Any
) -> None:
    async def scenario(world: Any) -> None:
        await world.phones.say("hello")
        await world.bridge.work_inbox()
        (device,) = world.relay.open.values()
        device.error = ended_by
        await world.relay.pump()
        assert await world.bridge.work_outbox() == 0  # The answer did not reach it.
        await world.bridge.connections.mend()
        await world.settle()
        assert bodies(world) == ["re: hello"]

    in_world(make_world, scenario)


def test_a_device_that_ended_is_tried_again_until_it_opens(make_world: Any) -> None:
    async def scenario(world: Any) -> None:
        await world.phones.say("hello")
        await world.bridge.work_inbox()
        (device,) = world.relay.open.values()
        device.error, world.relay.refuse = Replaced("4409"), Unavailable("away")
        for _ in range(2):
            with pytest.raises(Unavailable):
                await world.bridge.connections.mend()
        assert len(world.bridge.connections) == 0
        world.relay.refuse = None
        await world.bridge.connections.mend()
        await world.settle()
        assert bodies(world) == ["re: hello"]

    in_world(make_world, scenario)


def test_a_device_that_ends_when_nothing_is_expected_stays_closed(make_world: Any) -> None:
    async def scenario(world: Any) -> None:
        await world.phones.say("hello")
        await world.settle()
        (device,) = world.relay.open.values()
        device.error = Replaced("4409")
        await world.bridge.connections.mend()
        assert world.relay.open == {}
        await world.phones.say("again")
        await world.settle()
        assert bodies(world) == ["re: hello", "re: again"]

    in_world(make_world, scenario)


@pytest.mark.parametrize("refusal", [Unverified("none"), Unavailable("away"), Busy("full")])
def test_one_device_that_cannot_be_opened_does_not_keep_the_bridge_from_starting(
    make_world: Any, refusal: Any
) -> None:
    async def scenario(world: Any) -> None:
        await world.phones.say("hello", A)
        await world.phones.say("hello", B)
        await world.bridge.work_inbox()
        world.relay.refuse = refusal
        await world.boot()  # Opens what was open.
        world.relay.refuse = None
        await world.phones.say("now?", A)
        await world.settle()
        assert "re: now?" in bodies(world)

    in_world(make_world, scenario)


def test_a_lost_lease_is_not_taken_for_a_device_that_cannot_be_opened(make_world: Any) -> None:
    async def scenario(world: Any) -> None:
        await world.phones.say("hello")
        await world.bridge.work_inbox()
        world.relay.refuse = Fenced("a newer owner")
        with pytest.raises(ExceptionGroup) as caught:
            await world.boot()
        assert caught.group_contains(Fenced)

    in_world(make_world, scenario)


def test_a_contacts_device_is_never_opened_twice_at_once(make_world: Any) -> None:
    """The second would load ratchets that the first has not written yet."""

    async def scenario(world: Any) -> None:
        await world.phones.say("hello")
        await world.settle()
        ((contact, device),) = world.relay.open.items()
        device.closing = asyncio.Event()
        world.clock.advance(CONTACT_IDLE_S + 1)
        connections = world.bridge.connections
        closing = asyncio.create_task(connections.close_idle())
        await asyncio.sleep(0)
        opening = asyncio.create_task(connections.open(contact))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not opening.done()
        device.closing.set()
        line = await opening
        await closing
        assert world.relay.open[contact] is not device
        assert connections.get(contact) is line

    in_world(make_world, scenario)


def test_who_waits_now_goes_before_an_answer_that_does_not_come(make_world: Any) -> None:
    async def scenario(world: Any) -> None:
        world.bridge.connections._max = 1
        world.relay.answer = lambda body: []
        await world.phones.say("no answer to this", A)
        await world.bridge.work_inbox()
        await world.phones.say("and me?", B)
        assert await world.bridge.work_inbox() == 0
        world.clock.advance(CONTACT_IDLE_S + 1)
        assert await world.bridge.work_inbox() == 1
        assert world.relay.texts() == ["no answer to this", "and me?"]

    in_world(make_world, scenario)


# --- notices ---------------------------------------------------------------------------


def test_who_opted_out_hears_nothing_but_the_answer_to_start(make_world: Any) -> None:
    async def scenario(world: Any) -> None:
        world.rate_per_minute = 1
        await world.bridge.close()
        await world.boot()
        await world.phones.say("STOP")
        await world.settle()
        form = world.phones.form("", A)
        form["MessageType"] = "sticker"
        await world.phones.post(world.phones.webhook_url, form)
        for text in ("one", "two", "three"):
            await world.phones.say(text)
        await world.settle()
        assert bodies(world) == [STOPPED]
        assert {NOT_READABLE, TOO_FAST}.isdisjoint(bodies(world))
        await world.phones.say("START")
        await world.settle()
        assert bodies(world) == [STOPPED, STARTED]

    in_world(make_world, scenario)


def test_a_flood_is_told_to_wait_once_a_minute(make_world: Any) -> None:
    async def scenario(world: Any) -> None:
        world.rate_per_minute = 1
        await world.bridge.close()
        await world.boot()
        for minute in range(2):
            for index in range(4):
                await world.phones.say(f"{minute}/{index}")
            await world.bridge.work_inbox()
            world.clock.advance(60.0)
        await world.settle()
        assert bodies(world).count(TOO_FAST) == 2

    in_world(make_world, scenario)


# --- a defect --------------------------------------------------------------------------


def test_a_defect_with_one_delivery_does_not_stop_the_others(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: Any) -> None:
        outbox = world.bridge.outbox
        real = outbox._send

        async def send(delivery: Any) -> None:
            if not outbox_failed:
                outbox_failed.append(delivery.id)
                raise LookupError("a defect of ours")
            await real(delivery)

        outbox_failed: list[str] = []
        monkeypatch.setattr(outbox, "_send", send)
        await world.phones.say("hello", A)
        await world.phones.say("hello", B)
        await world.settle()
        assert (bodies(world, A), bodies(world, B)) == (["re: hello"], ["re: hello"])
        assert world.counts["outbox_defect"] == 1

    in_world(make_world, scenario)
