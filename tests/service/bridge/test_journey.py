"""A contact writes, an agent answers, the phone shows it: once each, in order."""

import asyncio
from typing import Any

import pytest

from angarium.bridge.inbound import NOT_READABLE, STARTED, STOPPED, TOO_FAST
from angarium.e2ee.body import Body, FileRef
from angarium.errors import Unavailable, UnverifiedDevice
from angarium.limits import OUTBOX_KEPT_S
from angarium.sdk.contract import Happened
from angarium.testing.phone import DEFAULT_NUMBER, Faults

A, B = "+15550001234", "+15550009999"


def bodies(world: Any, number: str = A) -> list[str]:
    return [message.body for message in world.phones.on_phone(number)]


def test_a_message_reaches_the_agent_and_the_answer_reaches_the_phone(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("Where is my parcel?")
            await world.settle()
            assert world.relay.texts() == ["Where is my parcel?"]
            assert bodies(world) == ["re: Where is my parcel?"]
            (log,) = world.relay.logs.values()
            assert (log[0].body.via, log[0].body.name) == ("twilio", "Phone 1234")
            (delivery,) = await world.deliveries()
            assert delivery.state == "read"
            assert delivery.provider_id == world.phones.shown[0].sid
            assert world.relay.read == [(delivery.contact, 2)]
            assert world.bridge.inbound.received_ms
            assert world.bridge.outbox.delivered_ms

    asyncio.run(scenario())


def test_no_number_stands_in_the_store_outside_a_seal(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("hello canary-text", A)
            await world.bridge.work_inbox()
            await world.relay.pump()
            (delivery,) = await world.deliveries()
            scopes = ("contacts/twilio", "lines/twilio", f"contact/{delivery.contact}")
            stored = repr(delivery) + repr([await world.store.vault.read(s) for s in scopes])
            assert "5550001234" not in stored
            assert "canary-text" not in stored
            assert delivery.contact.startswith("@wa_")
            assert len(delivery.contact) == len("@wa_:angarium") + 32
            await world.settle()

    asyncio.run(scenario())


def test_300_webhooks_with_duplicates_and_disorder_each_count_once(make_world: Any) -> None:
    async def scenario() -> None:
        faults = Faults(duplicate_share=0.1, shuffle_statuses=True)
        async with make_world(seed=7, faults=faults) as world:
            numbers = [f"+1555000{index:04}" for index in range(20)]
            for index in range(300):
                await world.phones.say(f"message {index}", numbers[index % 20])
                if index % 60 == 59:
                    await world.turn()
            await world.settle()
            for place, number in enumerate(numbers):
                said = [f"message {index}" for index in range(place, 300, 20)]
                assert bodies(world, number) == [f"re: {text}" for text in said]
            assert len(world.relay.texts()) == 300
            assert len(world.relay.logs) == 20
            assert {delivery.state for delivery in await world.deliveries()} == {"read"}

    asyncio.run(scenario())


def test_the_same_webhook_again_after_all_is_done_changes_nothing(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            form = world.phones.form("once")
            await world.phones.post(world.phones.webhook_url, form)
            await world.settle()
            assert await world.phones.post(world.phones.webhook_url, form) == 204
            await world.settle()
            assert bodies(world) == ["re: once"]

    asyncio.run(scenario())


def test_a_long_answer_is_cut_and_its_pieces_arrive_in_order(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            long = " ".join(f"Sentence number {index}." for index in range(300))
            world.relay.answer = lambda body: [Body(text=long), Body(text="the end")]
            await world.phones.say("tell me all")
            await world.settle()
            shown = bodies(world)
            assert len(shown) > 4
            assert shown[-1] == "the end"
            assert " ".join(shown[:-1]) == long
            assert max(len(text) for text in shown) <= 1600

    asyncio.run(scenario())


def test_a_question_shows_its_options_and_files_are_named(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            file = FileRef("b", b"k", b"s", "invoice.pdf", "application/pdf", 10, 1)
            world.relay.answer = lambda body: [
                Body(type="question", text="**When?**", options=["Today", "Tomorrow"]),
                Body(text="Here", files=[file]),
                Body(type="status", text="working"),
            ]
            await world.phones.say("deliver it")
            await world.settle()
            assert bodies(world) == [
                "*When?*\n\n1. Today\n2. Tomorrow", "Here\n[file: invoice.pdf]"
            ]  # fmt: skip

    asyncio.run(scenario())


def test_stop_silences_and_start_brings_back(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("hello")
            await world.settle()
            await world.phones.say("another")
            await world.bridge.work_inbox()
            await world.phones.say("STOP")
            await world.bridge.work_inbox()
            await world.settle()
            assert bodies(world) == ["re: hello", STOPPED]
            refused = [d for d in await world.deliveries() if d.state == "refused"]
            assert [d.reason for d in refused] == ["opted_out"]
            assert "STOP" not in world.relay.texts()
            await world.phones.say("start")
            await world.phones.say("me again")
            await world.settle()
            assert bodies(world)[2:] == [STARTED, "re: me again"]

    asyncio.run(scenario())


def test_what_cannot_be_read_gets_an_honest_answer_and_no_agent(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("", MessageType="reaction")
            await world.settle()
            assert bodies(world) == [NOT_READABLE]
            assert world.relay.texts() == []

    asyncio.run(scenario())


def test_media_and_places_are_named_in_the_text(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            media = {
                "NumMedia": "1",
                "MediaUrl0": "http://x/1",
                "MediaContentType0": "image/png",
            }
            await world.phones.say("look", MessageType="image", **media)
            await world.phones.say("", Latitude="52.5", Longitude="13.4", Label="Gate")
            await world.settle()
            assert world.relay.texts() == ["[image] look", "[location 52.5, 13.4: Gate]"]

    asyncio.run(scenario())


def test_a_flood_is_told_to_wait_and_other_contacts_are_not(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.rate_per_minute = 3
            await world.bridge.close()
            await world.boot()
            for index in range(5):
                await world.phones.say(f"quick {index}", A)
            await world.phones.say("calm", B)
            await world.bridge.work_inbox()
            await world.settle()
            assert bodies(world).count(TOO_FAST) == 1  # Not one for each message.
            assert bodies(world, B) == ["re: calm"]

    asyncio.run(scenario())


def test_a_relay_that_is_away_loses_nothing_and_does_not_reorder(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.relay.refuse = Unavailable("away")
            for index in range(3):
                await world.phones.say(f"m{index}")
            assert await world.bridge.work_inbox() == 0
            assert len(await world.store.webhooks.list_open("twilio", 9)) == 3
            world.relay.refuse = None
            await world.settle()
            assert world.relay.texts() == ["m0", "m1", "m2"]

    asyncio.run(scenario())


def test_a_device_that_has_ended_is_opened_anew(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("one")
            await world.settle()
            (contact,) = world.relay.open
            world.relay.broken[contact] = True
            await world.phones.say("two")
            await world.settle()
            assert bodies(world) == ["re: one", "re: two"]

    asyncio.run(scenario())


def test_a_webhook_that_never_can_be_carried_ends_as_a_dead_letter(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.relay.refuse = UnverifiedDevice("the gateway has no trusted device")
            await world.phones.say("hello")
            await world.settle()
            (dead,) = await world.store.webhooks.list_dead(9)
            assert dead.attempts >= 8
            assert world.counts["webhook_dead"] == 1
            world.relay.refuse = None
            await world.phones.say("and now?")
            await world.settle()
            assert bodies(world) == ["re: and now?"]

    asyncio.run(scenario())


def test_a_payload_sealed_for_another_place_is_a_dead_letter_at_once(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.store.webhooks.put("twilio", "message:SM1", b"x" * 40, 0)
            await world.phones.say("good")
            await world.settle()
            assert len(await world.store.webhooks.list_dead(9)) == 1
            assert bodies(world) == ["re: good"]

    asyncio.run(scenario())


def test_typing_is_shown_while_an_answer_is_written_and_not_all_the_time(
    make_world: Any,
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            sid = await world.phones.say("hello")
            await world.bridge.work_inbox()
            (contact,) = world.relay.open
            sink = world.relay.open[contact].sink
            part = Happened(f"c-{contact}", "part", "@gateway:angarium")  # type: ignore[arg-type]
            shower = asyncio.create_task(world.bridge._show_typing())
            for seconds in (1.0, 1.0, 21.0):
                sink.happened(part)
                for _ in range(50):
                    await asyncio.sleep(0)
                world.clock.advance(seconds)
            sink.happened(part)
            for _ in range(50):
                await asyncio.sleep(0)
            assert world.phones.typed == [sid, sid]
            await world.settle()
            world.clock.advance(21.0)
            sink.happened(part)
            await asyncio.sleep(0)
            assert len(world.phones.typed) == 2, "the answer is there"
            shower.cancel()
            await asyncio.gather(shower, return_exceptions=True)

    asyncio.run(scenario())


def test_idle_contacts_are_closed_and_those_with_an_open_question_are_not(
    make_world: Any,
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("hello", A)
            await world.settle()
            world.relay.answer = lambda body: []
            await world.phones.say("no answer yet", B)
            await world.bridge.work_inbox()
            world.clock.advance(700.0)
            assert await world.bridge.connections.close_idle() == 1
            assert len(world.relay.open) == 1
            assert len(await world.store.vault.read("lines/twilio")) == 1
            world.clock.advance(OUTBOX_KEPT_S)
            assert await world.bridge.connections.close_idle() == 1

    asyncio.run(scenario())


def test_an_answer_written_while_the_bridge_was_down_arrives_after_the_start(
    make_world: Any,
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("hello")
            await world.bridge.work_inbox()
            await world.boot()
            await world.settle()
            assert bodies(world, DEFAULT_NUMBER) == ["re: hello"]

    asyncio.run(scenario())


@pytest.mark.parametrize("most", [1, 2])
def test_more_contacts_than_connections_wait_their_turn(make_world: Any, most: int) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            world.bridge.connections._max = most
            for index in range(4):
                await world.phones.say(f"hi {index}", f"+1555000{index:04}")
            await world.settle()
            assert sorted(world.relay.texts()) == [f"hi {index}" for index in range(4)]
            assert len(world.bridge.connections) <= most

    asyncio.run(scenario())
