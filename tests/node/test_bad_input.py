"""Strangers and broken clients at the real node: a named error each, and nothing lost."""

import os

import msgspec
import picows
import pytest

from angarium.channels.twilio import sign
from angarium.channels.twilio_account import development_twilio
from angarium.clock import ManualClock, SystemClock
from angarium.e2ee.olm import OlmEngine
from angarium.ids import UserId, new_device_id
from angarium.limits import (
    CIPHERTEXT_BYTES_MAX,
    FRAME_BYTES_MAX,
    FRAMES_PER_ARRAY_MAX,
    REQUEST_BYTES_MAX,
    WEBHOOK_BYTES_MAX,
)
from angarium.protocol.codec import MsgpackCodec
from angarium.protocol.frames import Err, Hello, Msg, Ok, Resume
from angarium.sdk.api import HttpApi
from angarium.server.auth import Tokens, mint_token
from angarium.testing.phone import PhoneSimulator
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import RawClient, constant, enrol

from .nodes import Run, Talker, get, pair, post

pytestmark = [pytest.mark.process, pytest.mark.slow]
encode = msgspec.msgpack.encode
pack = MsgpackCodec().encode


async def refused(node: ServedNode, payload: bytes) -> tuple[int, str]:
    """What a new connection that sends this is told as it is closed."""
    talker = Talker(await RawClient.open(node.websocket_url))
    talker.client.send_bytes(payload)
    return await talker.end()


# --- frames -----------------------------------------------------------------------------------

MALFORMED = {
    "no MessagePack": b"\xc1\xff\x00",
    "cut short": pack([Hello(1, "D")])[:-3],
    "nothing": b"",
    "a number": encode(7),
    "no type": encode({"id": 1}),
    "an empty array": encode([]),
    "too many frames": encode([{"t": "ping", "n": n} for n in range(FRAMES_PER_ARRAY_MAX + 1)]),
    "a wrong field": encode({"t": "hello", "v": "one", "dev": "D"}),
    "a frame of servers": encode({"t": "ok", "id": 1, "c": "C", "s": 1, "e": 1, "ts": 1}),
    "nested without end": b"\x91" * 5000,
    "no hello": encode({"t": "send", "id": 1, "c": "C", "key": "k", "cs": 1, "to": []}),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_frames_close_that_connection_only(
    node: ServedNode, run: Run, kind: str
) -> None:
    async def scenario() -> None:
        people = await pair(node, "malformed")
        told = await refused(node, MALFORMED[kind])
        # A frame type this side does not know is skipped, unless it wants an answer.
        assert told == (4400, "malformed")
        await people.assert_alive()
        await people.leave()

    run(scenario())


def test_a_malformed_frame_after_hello_loses_nothing_sent_before(
    node: ServedNode, run: Run
) -> None:
    async def scenario() -> None:
        people = await pair(node, "late-malformed")
        send = people.next_send()
        people.ada.client.send([send])
        people.ada.client.send_bytes(b"\xc1 not ours")
        assert await people.ada.end() == (4400, "malformed")
        came = await people.bob.next(Msg)
        assert came.ct == send.to[0].ct
        back = await Talker.join(node, people.ada.device)
        again = await back.answer(send)
        assert (again.s, again.dup) == (came.s, True)
        await back.leave()
        await people.leave()

    run(scenario())


def test_oversized_frames_and_ciphertexts_are_named(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        assert await refused(node, os.urandom(FRAME_BYTES_MAX + 1)) == (4413, "too_large")
        people = await pair(node, "oversized")
        send = people.next_send(ct=os.urandom(CIPHERTEXT_BYTES_MAX + 1))
        told = await people.ada.answer(send)
        assert isinstance(told, Err)
        assert (told.code, told.retry) == ("too_large", False)
        people.ada.counter -= 1  # It was not stored: the counter is still free.
        told = await people.say(ct=os.urandom(CIPHERTEXT_BYTES_MAX))
        assert isinstance(told, Ok)
        await people.assert_alive()
        assert [s for s, _, _ in await people.stored()] == [1, 2]
        people.ada.client.send_bytes(os.urandom(5 * FRAME_BYTES_MAX))
        await people.ada.client.wait(people.ada.client.closed)  # Not even received whole.
        await people.leave()

    run(scenario())


def test_wrong_versions_are_told_which_is_spoken(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        device = await enrol(node, "@versions:angarium")
        for version in (0, 2, -1):
            told = await refused(node, pack([Hello(version, device.device, device.token)]))
            assert told == (4406, "unsupported_version")
        with pytest.raises(picows.WSHandshakeError) as turned_away:
            await RawClient.open(node.websocket_url, "angarium.2.msgpack")
        assert turned_away.value.response.status == 400

    run(scenario())


def test_a_frame_of_a_later_version_is_answered_and_changes_nothing(
    node: ServedNode, run: Run
) -> None:
    async def scenario() -> None:
        people = await pair(node, "later")
        people.ada.client.send_bytes(encode([{"t": "poll", "id": 41}, {"t": "hint"}]))
        assert (await people.ada.next(Err, lambda e: e.id == 41)).code == "malformed"
        await people.assert_alive()
        await people.leave()

    run(scenario())


def test_replayed_frames_are_stored_once(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        people = await pair(node, "replayed")
        send = people.next_send()
        first = await people.ada.answer(send)
        for _ in range(3):
            again = await people.ada.answer(send)
            assert (again.s, again.ts, again.dup) == (first.s, first.ts, True)
        # A whole recorded conversation with the node, replayed on a connection of its own:
        ada = people.ada.device
        recorded = [pack([Hello(1, ada.device, ada.token, "", [], Resume())]), pack([send])]
        replaying = Talker(await RawClient.open(node.websocket_url))
        replaying.client.send_bytes(recorded[0])
        await replaying.client.wait(replaying.client.live)
        replaying.client.send_bytes(recorded[1])
        assert (await replaying.next(Ok)).dup
        assert [(s, key) for s, key, _ in await people.stored()] == [(1, send.key)]
        # The newer connection of a device takes over; the person's own comes back.
        assert await people.ada.end() == (4409, "replaced")
        await replaying.leave()
        people.ada = await Talker.join(node, ada)
        people.ada.counter = 1
        await people.assert_alive()
        await people.leave()

    run(scenario())


def test_changed_replays_are_refused_by_name(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        people = await pair(node, "changed")
        send = people.next_send()
        assert isinstance(await people.ada.answer(send), Ok)
        told = await people.say(key=send.key, cs=1)
        assert told.code == "key_reused"  # The same key, other bytes.
        told = await people.say(cs=1)
        assert told.code in ("out_of_order", "key_expired")  # A counter is used once.
        told = await people.say(cs=7)
        assert (told.code, told.expect_cs) == ("out_of_order", 2)
        # Another device replays it as its own: it is not in its conversations.
        mallory = await Talker.join(node, await enrol(node, "@mallory:angarium"))
        told = await mallory.answer(send)
        assert told.code in ("not_member", "not_found")
        await mallory.leave()
        assert len(await people.stored()) == 1
        await people.assert_alive()
        await people.leave()

    run(scenario())


def test_sends_that_do_not_fit_their_conversation_are_refused_by_name(
    node: ServedNode, run: Run
) -> None:
    async def scenario() -> None:
        people = await pair(node, "unfit")
        bob = people.bob.device.device
        wrong = {
            "stale_devices": {"to": [new_device_id()]},
            "malformed": {"to": [bob], "key": "not a uuid"},
        }
        for code, changed in wrong.items():
            to = changed.pop("to")
            send = people.ada.make_send(people.c, to, cs=1, **changed)
            assert (await people.ada.answer(send)).code == code
        send = people.ada.make_send("01HZZZZZZZZZZZZZZZZZZZZZZZ", [bob], cs=1)  # type: ignore[arg-type]
        assert (await people.ada.answer(send)).code in ("not_found", "not_member")
        await people.assert_alive()
        await people.leave()

    run(scenario())


# --- tokens -----------------------------------------------------------------------------------


async def greet(node: ServedNode, device: str, token: str) -> tuple[int, str]:
    return await refused(node, pack([Hello(1, device, token, "", [], Resume())]))


def test_tokens_that_do_not_hold_are_named_on_the_socket(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        device = await enrol(node, "@holder:angarium")
        stranger = mint_token(node.folder, "@stranger:angarium")
        past = ManualClock(SystemClock().now_ms() - 3_600_000)
        expired = mint_token(node.folder, device.user, ttl_s=60, clock=past)
        forged = Tokens(os.urandom(48), SystemClock()).mint(device.user, 60)
        for token, told in {
            "": (4401, "bad_token"),
            "nonsense": (4401, "bad_token"),
            device.token[:-4] + "AAAA": (4401, "bad_token"),
            forged: (4401, "bad_token"),
            "x" * 10_000: (4401, "bad_token"),
            expired: (4101, "token_expired"),
            stranger: (4403, "forbidden"),  # A good token, but the device is another's.
        }.items():
            assert await greet(node, device.device, token) == told
        assert await greet(node, new_device_id(), device.token) == (4403, "forbidden")
        await (await Talker.join(node, device)).leave()

    run(scenario())


def test_a_device_its_owner_did_not_sign_may_not_connect(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        first = await enrol(node, "@signer:angarium")
        owner, device = UserId(first.user), new_device_id()
        engine = OlmEngine.create_device(
            owner, device, kind="sdk", identity=None, clock=SystemClock()
        )
        api = HttpApi(node.http_url, constant(first.token))
        await api.upload_keys({"device_keys": engine.device_keys(), "kind": "sdk"})
        await api.close()
        assert await greet(node, device, first.token) == (4403, "forbidden")

    run(scenario())


def test_tokens_that_do_not_hold_are_named_over_http(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        past = ManualClock(SystemClock().now_ms() - 3_600_000)
        expired = mint_token(node.folder, "@late:angarium", ttl_s=60, clock=past)
        person = mint_token(node.folder, "@person:angarium")
        for path, token, status, code in [
            ("/v1/conversations", "", 401, "bad_token"),
            ("/v1/conversations", "nonsense", 401, "bad_token"),
            ("/v1/conversations", expired, 401, "token_expired"),
            ("/v1/admin/audit", person, 403, "forbidden"),
        ]:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = await get(node, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)

    run(scenario())


def test_requests_that_are_not_the_api_are_named(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        token = mint_token(node.folder, "@careless:angarium")
        bearer = {"Authorization": f"Bearer {token}"}
        as_json = {**bearer, "Content-Type": "application/json"}
        for body, status, code in [
            (b"{", 400, "malformed"),
            (b'{"users": "all"}', 400, "malformed"),
            (b"\xff\xfe", 400, "malformed"),
            (b"[" * 5000, 400, "malformed"),
            (b" " * (REQUEST_BYTES_MAX + 1), 413, "too_large"),
        ]:
            answer = await post(node, "/v1/keys/query", content=body, headers=as_json)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        answer = await get(node, "/v1/nowhere", headers=bearer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")

    run(scenario())


# --- webhooks ---------------------------------------------------------------------------------


async def hook(node: ServedNode, form: dict[str, str], signature: str) -> int:
    headers = {"X-Twilio-Signature": signature} if signature else {}
    return (await post(node, "/webhooks/twilio", data=form, headers=headers)).status_code


def phones_of(node: ServedNode) -> PhoneSimulator:
    account, token, number = development_twilio(node.folder)
    return PhoneSimulator(
        webhook_url=f"{node.http_url}/webhooks/twilio",
        account_sid=account,
        auth_token=token,
        our_number=number,
        api_port=int(node.settings["phone_port"]),
        seed=int.from_bytes(os.urandom(6), "big"),
    )


def test_forged_webhooks_are_refused_and_bring_no_answer(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        _, secret, _ = development_twilio(node.folder)
        url, number = f"{node.http_url}/webhooks/twilio", "+15550000201"
        async with phones_of(node) as phones:
            form = phones.form("forged", number)
            good = sign(secret, url, list(form.items()))
            for forged, signature in [
                (form, ""),
                (form, "AAAA"),
                (form, sign("another token", url, list(form.items()))),
                ({**form, "Body": "changed"}, good),
                ({**form, "Added": "1"}, good),
                (form, sign(secret, url + "/status", list(form.items()))),
            ]:
                assert await hook(node, forged, signature) == 403
            headers = {"X-Twilio-Signature": good}
            answer = await post(
                node, "/webhooks/twilio", data={**form, "Body": "x"}, headers=headers
            )
            assert answer.json()["error"]["code"] == "bad_signature"
            # Nothing of it was kept: the first message that counts is the first answered.
            await phones.say("honest", number)
            assert (await phones.next_reply(number)).body.splitlines()[-1] == "echo honest"
            await phones.settled()
            assert len(phones.on_phone(number)) == 1

    run(scenario())


def test_unknown_webhook_fields_are_taken_and_the_message_is_answered(
    node: ServedNode, run: Run
) -> None:
    async def scenario() -> None:
        async with phones_of(node) as phones:
            number = "+15550000202"
            await phones.say(
                "hello",
                number,
                NewFieldOfTwilio="1",
                ChannelMetadata='{"a":{}}',
                Ü="ü",
                Empty="",
            )
            assert (await phones.next_reply(number)).body.splitlines()[-1] == "echo hello"
            await phones.settled()

    run(scenario())


def test_signed_webhooks_that_make_no_sense_stop_nobody(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        number = "+15550000203"
        async with phones_of(node) as phones:
            whole = phones.form("x", number)
            for form in (
                {"MessageSid": "SM" + "0" * 32},
                {"Nothing": "ours"},
                {**whole, "From": "whatsapp:", "WaId": ""},
                {**phones.form("y", number), "MessageStatus": "exploded"},
                {**phones.form("z", number), "NumMedia": "many", "ErrorCode": "x"},
            ):
                assert await phones.post(phones.webhook_url, form) == 204
            await phones.say("still there?", number)
            seen = 0
            while not (await phones.next_reply(number, after=seen)).body.endswith(
                "still there?"
            ):
                seen += 1
            await phones.settled()

    run(scenario())


def test_oversized_and_replayed_webhooks_are_bounded(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        number = "+15550000204"
        async with phones_of(node) as phones:
            big = await hook(node, {"Body": "x" * (WEBHOOK_BYTES_MAX + 1)}, "AAAA")
            assert big == 413
            form = phones.form("once", number)
            for _ in range(5):
                assert await phones.post(phones.webhook_url, form) == 204
            await phones.say("twice", number)
            replies = [
                (await phones.next_reply(number, after=n)).body.splitlines()[-1] for n in (0, 1)
            ]
            assert replies == ["echo once", "echo twice"]
            await phones.settled()
            assert len(phones.on_phone(number)) == 2

    run(scenario())
