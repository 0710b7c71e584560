"""Load of light clients on one real node: what it reports is true, also across a kill."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from angarium.clock import SystemClock
from angarium.server.auth import mint_token
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.load import Load
from angarium.testing.process import ServedNode
from angarium.testing.redis_server import quiet_port

pytestmark = [pytest.mark.process, pytest.mark.slow]

SHORT_S = (0.05, 0.5)  # Pauses before a new connection.


class OneNode:
    """The embedded store and its node as a target of load."""

    def __init__(self, node: ServedNode) -> None:
        self._node = node

    def pick(self, excluding: Collection[str] = ()) -> str:
        return self._node.websocket_url

    def token(self, user: str) -> str:
        return mint_token(self._node.folder, user)

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        opened = await open_sqlite(self._node.folder, SystemClock())
        try:
            yield opened.store
        finally:
            await opened.close()


def served(place: Path) -> ServedNode:
    settings = {
        "port": str(quiet_port()),
        "websocket_port": str(quiet_port()),
        "rate_per_minute": "1000000",
    }
    return ServedNode(place / "node", settings=settings, services="messaging")


def test_a_killed_node_loses_nothing_and_every_client_was_offline(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = served(tmp_path)
        load = Load(
            OneNode(node), clients=20, conversations=20, messages_per_s=100, reconnect_s=SHORT_S
        )
        async with node, load:
            async with load.sending():
                await asyncio.sleep(0.5)
                await node.kill()
                await node.start()
                await asyncio.sleep(0.5)
            assert await load.verdict() == []

            found = load.figures()
            assert found["sent"] == found["acked"] > 50
            assert found["received"] == 2 * found["sent"]  # Three members, two of them readers.
            assert found["offline_max"] == 20
            assert found["reconnects"] >= 20
            assert found["reconnect_p50_s"] > 0.05
            assert load.held_back == 0

    asyncio.run(scenario())


def test_what_is_not_delivered_is_reported_as_unfinished(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = served(tmp_path)
        load = Load(OneNode(node), clients=2, layout=[[0, 1]], messages_per_s=50)
        async with node, load:
            load.clients[1].stop_reading()
            await load.run(0.2)
            broken = await load.verdict(within_s=0.5)

            deaf = load.clients[1].device
            assert any(sentence.startswith(f"I8 {deaf}") for sentence in broken)
            assert any(sentence.startswith(f"I3 {deaf}") for sentence in broken)
            assert load.figures()["acked"] == load.figures()["sent"] - len(
                load.histories[1].sent
            )

    asyncio.run(scenario())


def test_severed_clients_come_back_and_resume(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = served(tmp_path)
        load = Load(
            OneNode(node), clients=10, conversations=10, members=2, messages_per_s=100,
            reconnect_s=SHORT_S,
        )  # fmt: skip
        async with node, load:
            async with load.sending():
                for client in load.clients[:5]:
                    client.sever()
                await asyncio.sleep(0.7)
            assert await load.verdict() == []
            assert load.figures()["reconnects"] == 5
            assert 1 <= load.figures()["offline_max"] <= 5

    asyncio.run(scenario())
