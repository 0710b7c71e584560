"""`angarium phone --say`: one message out, the answer on standard output."""

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from angarium.channels.contract import Inbound, Outgoing, WebhookRequest
from angarium.channels.twilio import Twilio
from angarium.channels.twilio_account import development_twilio
from angarium.cli.phone import phone
from angarium.errors import Unavailable
from angarium.testing.phone import PhoneSimulator
from angarium.testing.phone_api import ApiRequest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(data: Path, api_port: int) -> Iterator[str]:
    """A node as small as can be: verifies, then echoes through Twilio's API."""
    account, token, ours = development_twilio(data)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    app = FastAPI()

    async def answer(twilio: Twilio, event: Inbound) -> None:
        await twilio.send(Outgoing("d", event.contact, ours, "echo: " + event.text))

    @app.post("/webhooks/twilio")
    async def receive(request: Request) -> Response:
        async with httpx2.AsyncClient(trust_env=False) as http:
            twilio = Twilio(
                account_sid=account, auth_tokens=[token], status_url=base + "/status",
                http=http, api_base=f"http://127.0.0.1:{api_port}",
            )  # fmt: skip
            body = await request.body()
            headers = dict(request.headers)
            twilio.verify(WebhookRequest(base + "/webhooks/twilio", "POST", headers, body))
            (event,) = twilio.parse(base, body)
            assert isinstance(event, Inbound)
            await answer(twilio, event)
        return Response(status_code=204)

    @app.post("/status")
    async def status() -> Response:
        return Response(status_code=204)

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none")
    server = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it offers no event
            await asyncio.sleep(0.005)
        started.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    try:
        yield base + "/webhooks/twilio"
    finally:
        server.should_exit = True
        thread.join(10)


def test_say_prints_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api_port = free_port()
    with node(tmp_path, api_port) as url:
        code = phone(data=tmp_path, webhook_url=url, api_port=api_port, say="hi", wait_s=10.0)
    assert code == 0
    assert capsys.readouterr().out == "echo: hi\n"


def test_say_names_the_error_when_no_node_runs(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/webhooks/twilio"
    with pytest.raises(Unavailable, match="answered not at all"):
        phone(data=tmp_path, webhook_url=url, api_port=0, say="hi", wait_s=1.0)


def test_a_phone_that_is_offline_shows_nothing_until_it_is_online() -> None:
    async def scenario() -> None:
        shown: list[str] = []
        phones = PhoneSimulator(
            webhook_url="http://127.0.0.1:1/nowhere", account_sid="AC1", auth_token="t",
            our_number="whatsapp:+15550006060",
            on_message=lambda message: shown.append(message.body),
        )  # fmt: skip
        asked = ApiRequest(
            "POST", "/2010-04-01/Accounts/AC1/Messages.json", {},
            {"authorization": "Basic " + base64.b64encode(b"AC1:t").decode()},
            {"To": "whatsapp:+15550001234", "From": "whatsapp:+15550006060", "Body": "later"},
        )  # fmt: skip
        phones.offline.add("+15550001234")
        assert (await phones.answer_api(asked)).status == 201
        await phones.settled()
        assert shown == []
        await phones.go_online("+15550001234")
        assert shown == ["later"]
        assert phones.on_phone("+15550001234")[0].status == "read"
        await phones.close()

    asyncio.run(scenario())
