"""The door: what it stores, what it turns away, and what it answers."""

import asyncio
from typing import Any

import pytest

from angarium.channels.twilio import sign
from angarium.errors import DiskFull, Unavailable
from angarium.limits import WEBHOOK_BYTES_MAX

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def stored(world: Any) -> int:
    return len(await world.store.webhooks.list_open("twilio", 100))


def test_a_forged_webhook_is_refused_and_leaves_nothing(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            for headers in ({}, {"X-Twilio-Signature": "AAAA"}):
                answer = await world.door.post(
                    "/webhooks/twilio", content="MessageSid=SM1&Body=x", headers=FORM | headers
                )
                assert (answer.status_code, answer.json()["error"]["code"]) == (
                    403,
                    "bad_signature",
                )
            form = world.phones.form("hi")
            with pytest.raises(Unavailable, match="403"):
                await world.phones.post(world.phones.webhook_url, form, token="not ours")
            assert await stored(world) == 0

    asyncio.run(scenario())


def test_the_signature_counts_for_the_public_url_and_not_for_the_host(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            pairs = [("MessageSid", "SM1"), ("Body", "hi")]
            for base, status in [
                ("http://inside.local", 403), ("https://chat.example.com", 204),
            ]:  # fmt: skip
                signature = sign("a token", base + "/webhooks/twilio", pairs)
                answer = await world.door.post(
                    "http://inside.local/webhooks/twilio", content="MessageSid=SM1&Body=hi",
                    headers=FORM | {"X-Twilio-Signature": signature},
                )  # fmt: skip
                assert answer.status_code == status
            assert await stored(world) == 1

    asyncio.run(scenario())


def test_what_is_stored_is_sealed_and_whole(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.say("canary-text")
            (entry,) = await world.store.webhooks.list_open("twilio", 9)
            assert b"canary" not in entry.raw
            assert b"5550001234" not in entry.raw
            assert entry.event.startswith("message:SM")
            await world.settle()

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [Unavailable("slow"), DiskFull("full")])
def test_when_it_cannot_be_stored_the_provider_is_asked_to_repeat(
    make_world: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            store = type(world.store.webhooks)
            healthy, failures = store.put, [error, error]

            async def put(self: Any, *arguments: Any) -> bool:
                if failures:
                    raise failures.pop()
                return bool(await healthy(self, *arguments))

            monkeypatch.setattr(store, "put", put)
            form = world.phones.form("hi")
            answer = await world.phones._post_once(world.phones.webhook_url, "A=1", FORM)
            assert answer == (403, False), "a forged one is not even tried"
            assert await world.phones.post(world.phones.webhook_url, form) == 204
            assert failures == []
            await world.settle()
            assert world.relay.texts() == ["hi"]

    asyncio.run(scenario())


def test_a_payload_over_the_limit_is_refused_before_anything_else(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            body = "A=" + "x" * WEBHOOK_BYTES_MAX
            answer = await world.door.post("/webhooks/twilio", content=body, headers=FORM)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
            assert await stored(world) == 0

    asyncio.run(scenario())


def test_a_signed_webhook_nobody_understands_is_kept_and_finished(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            await world.phones.post(world.phones.webhook_url, {"Future": "thing"})
            assert await stored(world) == 1
            await world.settle()
            assert await stored(world) == 0
            assert world.relay.texts() == []

    asyncio.run(scenario())


def test_messages_and_statuses_of_one_id_are_two_webhooks(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            sid = "SM" + "a" * 32
            form = world.phones.form("hi", sid=sid)
            await world.phones.post(world.phones.webhook_url, form)
            status = {"MessageSid": sid, "MessageStatus": "sent", "AccountSid": "AC"}
            url = world.phones.webhook_url + "/status"
            assert await world.phones.post(url, status) == 204
            assert await world.phones.post(url, status | {"MessageStatus": "read"}) == 204
            assert await stored(world) == 3
            await world.settle()

    asyncio.run(scenario())
