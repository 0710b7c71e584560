"""The adapter against the simulator over loopback: what only real connections can show."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from angarium.channels.contract import Address, NotSent, Outgoing, Sent
from angarium.channels.twilio import Twilio
from angarium.errors import PortInUse, Unavailable
from angarium.testing.phone import PhoneSimulator

OURS = "whatsapp:+15550006060"


def outgoing(text: str = "hello", **changes: str) -> Outgoing:
    number = changes.get("number", "+15550001234")
    return Outgoing("d-1", Address(phone=number), changes.get("sender", OURS), text)


@asynccontextmanager
async def pair(token: str = "t") -> AsyncIterator[tuple[PhoneSimulator, Twilio]]:
    phones = PhoneSimulator(
        webhook_url="http://127.0.0.1:9/webhooks/twilio", account_sid="AC1", auth_token="t",
        our_number=OURS, retry_wait_s=0.0,
    )  # fmt: skip
    phones.faults.lose_statuses = True
    async with phones, httpx2.AsyncClient(trust_env=False) as http:
        yield phones, Twilio(
            account_sid="AC1", auth_tokens=[token], status_url="http://127.0.0.1:9/status",
            http=http, api_base=phones.api_base, timeout_s=0.2,
        )  # fmt: skip


def test_a_send_is_taken_listed_and_shown() -> None:
    async def scenario() -> None:
        async with pair() as (phones, twilio):
            sent = await twilio.send(outgoing("Grüße 📦 & more\n+%"))
            assert isinstance(sent, Sent)
            (message,) = phones.on_phone()
            assert (message.sid, message.body) == (sent.provider_id, "Grüße 📦 & more\n+%")
            assert message.callback == "http://127.0.0.1:9/status?delivery=d-1"
            found = await twilio.find_sent(outgoing("Grüße 📦 & more\n+%"), message.created_ms)
            assert found is not None
            assert found.provider_id == sent.provider_id
            again = outgoing("Grüße 📦 & more\n+%")
            assert await twilio.find_sent(again, 0, exclude=[message.sid]) is None
            assert await twilio.find_sent(outgoing("other"), 0) is None
            late_ms = message.created_ms + 10 * 60_000
            assert await twilio.find_sent(again, late_ms) is None
            await twilio.show_typing("SM1")
            assert phones.typed == ["SM1"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fault", "verdict", "code"),
    [
        ("hang", "unknown", "ReadTimeout"), ("cut", "unknown", "RemoteProtocolError"),
        ("500", "unknown", "20500"), ("503", "unknown", "20503"), ("429", "retry", "20429"),
        ("63018", "retry", "63018"), ("63016", "template", "63016"),
        ("21610", "never", "21610"), ("12345", "never", "12345"), ("63007", "alarm", "63007"),
    ],
)  # fmt: skip
def test_each_failure_is_told_by_the_table(fault: str, verdict: str, code: str) -> None:
    async def scenario() -> None:
        async with pair() as (phones, twilio):
            phones.faults.api.append(fault)
            outcome = await twilio.send(outgoing())
            assert isinstance(outcome, NotSent)
            assert (outcome.verdict, outcome.code, outcome.reached) == (verdict, code, True)
            assert outcome.after_ms == (2000 if fault == "429" else 0)
            assert len(phones.shown) == (1 if fault in ("hang", "cut") else 0)

    asyncio.run(scenario())


def test_a_refused_connection_means_that_nothing_left() -> None:
    async def scenario() -> None:
        async with pair() as (phones, twilio):
            await phones.api_down()
            outcome = await twilio.send(outgoing())
            assert isinstance(outcome, NotSent)
            assert (outcome.verdict, outcome.reached) == ("retry", False)
            with pytest.raises(Unavailable):
                await twilio.find_sent(outgoing(), 0)
            await twilio.show_typing("SM1")
            await phones.start()
            assert isinstance(await twilio.send(outgoing()), Sent)

    asyncio.run(scenario())


def test_wrong_credentials_are_an_alarm() -> None:
    async def scenario() -> None:
        async with pair(token="wrong") as (_phones, twilio):
            outcome = await twilio.send(outgoing())
            assert isinstance(outcome, NotSent)
            assert (outcome.verdict, outcome.code) == ("alarm", "20003")
            with pytest.raises(Unavailable, match="401"):
                await twilio.find_sent(outgoing(), 0)

    asyncio.run(scenario())


def test_the_simulator_checks_what_twilio_checks() -> None:
    async def scenario() -> None:
        async with pair() as (_, twilio):
            for wrong, code in [
                (outgoing("x" * 1601), "21617"), (outgoing(""), "21619"),
                (outgoing(sender="whatsapp:+19999"), "63007"),
            ]:  # fmt: skip
                outcome = await twilio.send(wrong)
                assert isinstance(outcome, NotSent)
                assert outcome.code == code
            assert isinstance(await twilio.send(outgoing("😀" * 1600)), Sent)

    asyncio.run(scenario())


def test_a_node_that_is_not_there_is_named_and_webhooks_are_retried() -> None:
    async def scenario() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/webhooks/twilio#rc=2&rp=ct"
        phones = PhoneSimulator(
            webhook_url=url, account_sid="AC1", auth_token="t", our_number=OURS,
            retry_wait_s=0.0,
        )  # fmt: skip
        async with phones:
            with pytest.raises(Unavailable, match="not at all"):
                await phones.say("hello")
            with pytest.raises(Unavailable, match="no answer within"):
                await phones.next_reply(wait_s=0.01)

    asyncio.run(scenario())


def test_a_taken_port_is_named() -> None:
    async def scenario() -> None:
        async with pair() as (phones, _):
            other = PhoneSimulator(
                webhook_url="http://127.0.0.1:9/", account_sid="AC1", auth_token="t",
                our_number=OURS, api_port=int(phones.api_base.rpartition(":")[2]),
            )  # fmt: skip
            with pytest.raises(PortInUse):
                await other.start()
            await other.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff\r\n\r\n"])
def test_noise_on_the_apis_port_harms_nobody(noise: bytes) -> None:
    async def scenario() -> None:
        async with pair() as (phones, twilio):
            port = int(phones.api_base.rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            writer.close()
            assert isinstance(await twilio.send(outgoing()), Sent)

    asyncio.run(scenario())
