"""A token's end and its scopes, met by the real node."""

import asyncio
from pathlib import Path

import pytest

from angarium.ids import UserId
from angarium.sdk.client import Client
from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import RawClient, enrol

from .nodes import Run, Talker, get

pytestmark = [pytest.mark.slow, pytest.mark.process]

SHORT_S = 2.0


def test_a_connection_is_closed_when_its_token_expires(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        device = await enrol(node, "@brief:angarium")
        token = mint_token(node.folder, device.user, ttl_s=SHORT_S)
        client = await RawClient.connect(node.websocket_url, device.device, token)
        talker = Talker(client, device)
        assert await talker.end() == (4101, "token_expired")

    run(scenario())


def test_a_client_whose_token_expires_gets_a_fresh_one_and_talks_on(
    node: ServedNode, run: Run, tmp_path: Path
) -> None:
    user = UserId("@hourly:angarium")
    answered, renewed = asyncio.Event(), asyncio.Event()

    def token() -> str:
        if answered.is_set():
            renewed.set()
        return mint_token(node.folder, user, ttl_s=60.0 if answered.is_set() else SHORT_S)

    async def scenario() -> None:
        async with (
            asyncio.timeout(60),
            Client(node.http_url, user=user, token=token, folder=tmp_path) as client,
        ):
            talk = await client.converse(client.gateway)
            for text in ("before", "after"):
                await talk.send(text)
                async for message in talk.answers():
                    assert message.text == f"echo {text}"
                    break
                answered.set()
                await renewed.wait()
            assert client.error is None

    run(scenario())


def test_an_operators_token_alone_opens_no_door_of_the_user(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        device = await enrol(node, "@root:angarium")
        token = mint_token(node.folder, device.user, ("admin",))
        client = await RawClient.connect(
            node.websocket_url, device.device, token, wait_live=False
        )
        assert await Talker(client, device).end() == (4403, "forbidden")
        told = {"Authorization": f"Bearer {token}"}
        assert (await get(node, "/v1/conversations", headers=told)).status_code == 403
        assert (await get(node, "/v1/admin/audit", headers=told)).status_code == 200

    run(scenario())
