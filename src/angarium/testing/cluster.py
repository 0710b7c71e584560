"""A whole cluster on this machine: MongoDB and Redis servers, nodes, and who finds them.

    async with Cluster(folder, nodes=3) as cluster:
        cluster.pick()             # what a load balancer does: a node that is ready
        await cluster.kill(1)
        await cluster.start_node(1)
        await cluster.rolling_restart()

The stores are MONGODB_URI and REDIS_URL where set, else servers of its own. Where services run
in processes of their own, a balancer stands before those that are called.
"""

import asyncio
import os
import random
import secrets
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import httpx2

from angarium.clock import SystemClock
from angarium.errors import Unavailable
from angarium.server.auth import Tokens
from angarium.storage.contract import Store
from angarium.testing.balancer import Balancer
from angarium.testing.bench import UNLIMITED_PER_MINUTE
from angarium.testing.faults import FaultProxy
from angarium.testing.mongo import MongoServer
from angarium.testing.process import READY_WAIT_S, ServedNode
from angarium.testing.redis_server import RedisServer, quiet_port

POLL_EVERY_S = 0.2
POLL_WAIT_S = 1.0
TOKEN_TTL_S = 24 * 3600.0
Part = Literal["store", "stores", "bus", "nodes"]
Front = Literal["api", "socket", "webhooks"]


class Cluster:
    """`nodes` processes on one store and one bus. `services` of all, or one entry for each;
    with gateways or bridges that have no messaging beside them, `fronts` lead to who is ready.

    `source`: see `program`. `settings` go to every node, `settings_of[n]` to node `n` alone.
    `proxied` parts are reached through a FaultProxy: `store_proxy`, `bus_proxy`, and one of
    `door_proxies` for each node's WebSocket. With "stores" each node has a way of its own to
    the store: `store_proxies`.
    Wall clocks of the nodes in `skewed_s` are so many seconds ahead; `set_clock` steps them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        services: str | Sequence[str] = "messaging",
        settings: Mapping[str, str] | None = None,
        settings_of: Mapping[int, Mapping[str, str]] | None = None,
        proxied: Collection[Part] = (),
        skewed_s: Mapping[int, float] | None = None,
        mongo_options: Sequence[str] = (),
        source: Path | None = None,
    ) -> None:
        self.folder = folder
        self.nodes: dict[int, ServedNode] = {}
        self.mongo: MongoServer | None = None
        self.redis: RedisServer | None = None
        self.store_proxy: FaultProxy | None = None
        self.bus_proxy: FaultProxy | None = None
        self.door_proxies: dict[int, FaultProxy] = {}
        self.store_proxies: dict[int, FaultProxy] = {}
        self.fronts: dict[Front, Balancer] = {}
        self.store_url = self.bus_url = ""
        self._services = [services] * nodes if isinstance(services, str) else list(services)
        self._settings, self._settings_of = dict(settings or {}), dict(settings_of or {})
        self._skewed_s = dict(skewed_s or {})
        self._source = source
        self._proxied, self._mongo_options = frozenset(proxied), tuple(mongo_options)
        self._secret = secrets.token_urlsafe(48)
        self._tokens = Tokens(self._secret.encode(), SystemClock())
        self._ready: set[int] = set()
        self._asked = asyncio.Event()  # All nodes were asked once more.
        self._poll: asyncio.Task[None] | None = None
        self._parts = AsyncExitStack()
        self._made = 0

    # --- life -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Servers first, then all nodes at once. Raises Unavailable; nothing runs then."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            await self._start_store()
            await self._start_bus()
            await self._open_fronts()
            for number, services in enumerate(self._services):
                await self._make_node(number, services)
            # One first: it prepares the store for all.
            await self.nodes[0].start()
            await asyncio.gather(*(node.start() for node in list(self.nodes.values())[1:]))
            self._poll = asyncio.create_task(self._watch())
            await self.wait_ready(len(self.nodes))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Nodes end without a drain; servers after them."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        for node in self.nodes.values():
            await node.kill()
        await self._parts.aclose()

    async def __aenter__(self) -> "Cluster":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _start_store(self) -> None:
        given = os.environ.get("MONGODB_URI", "")
        if not given:
            folder = self.folder / "mongo"
            options = self._mongo_options
            self.mongo = await asyncio.to_thread(lambda: MongoServer(folder, *options))
            self._parts.callback(self.mongo.close)
            given = self.mongo.uri
        name = f"angarium_{uuid.uuid4().hex[:12]}"
        self.store_url = with_database(given, name)

        if self.mongo is None:
            self._parts.push_async_callback(self._drop_database)

    async def _drop_database(self) -> None:
        from pymongo import AsyncMongoClient

        async with AsyncMongoClient[dict[str, object]](self.store_url) as client:
            await client.drop_database(self._database)

    @property
    def _database(self) -> str:
        return urlsplit(self.store_url).path.strip("/")

    async def _start_bus(self) -> None:
        self.bus_url = os.environ.get("REDIS_URL", "")
        if not self.bus_url:
            self.redis = RedisServer(self.folder / "redis")
            self._parts.callback(self.redis.kill)
            await self.redis.start()
            self.bus_url = self.redis.url

    async def _open_fronts(self) -> None:
        if all("messaging" in services for services in self._services):
            return
        doors: list[tuple[Front, str, str]] = [
            ("api", "messaging", "port"),
            ("socket", "messaging", "websocket_port"),
            ("webhooks", "bridge", "port"),
        ]
        for front, service, door in doors:
            balancer = Balancer(partial(self._ports, service, door))
            await balancer.start()
            self._parts.push_async_callback(balancer.close)
            self.fronts[front] = balancer
        api, socket, hooks = (f"127.0.0.1:{self.fronts[one].port}" for one, _, _ in doors)
        self._settings = {
            "relay_url": f"http://{api}",
            "relay_websocket_url": f"ws://{socket}/ws",
            "public_websocket_url": f"ws://{socket}/ws",
            "public_base_url": f"http://{hooks}",
            **self._settings,
        }

    def _ports(self, service: str, door: str) -> list[int]:
        """Of the nodes with a service that are ready; while none was asked yet, of all."""
        numbers = self.ready or [number for number, node in self.nodes.items() if node.pid]
        nodes = [self.nodes[number] for number in numbers]
        return [int(node.settings[door]) for node in nodes if service in node.services]

    async def _make_node(self, number: int, services: str) -> ServedNode:
        """A node on ports of its own, which stay the same when it is started again."""
        if "store" in self._proxied and self.store_proxy is None:
            self.store_proxy = await self._proxy(self.store_url)
        if "bus" in self._proxied and self.bus_proxy is None:
            self.bus_proxy = await self._proxy(self.bus_url)
        if "stores" in self._proxied:
            self.store_proxies[number] = await self._proxy(self.store_url)
        store, bus = self.store_proxies.get(number, self.store_proxy), self.bus_proxy
        settings = {
            "port": str(quiet_port()),
            "websocket_port": str(quiet_port()),
            "store_url": store.before(self.store_url) if store else self.store_url,
            "bus_url": bus.before(self.bus_url) if bus else self.bus_url,
            "token_secret": self._secret,
            "kms_url": f"local://{self.folder / 'kms.json'}",
            "rate_per_minute": str(UNLIMITED_PER_MINUTE),
            **self._settings,
            **self._settings_of.get(number, {}),
        }
        if number in self._skewed_s:
            self.set_clock(number, self._skewed_s[number])
        node = ServedNode(
            self.folder / f"node{number}",
            settings=settings,
            services=services,
            source=self._source,
            skew=self._clock_file(number) if number in self._skewed_s else None,
        )
        if "nodes" in self._proxied:
            direct = f"ws://127.0.0.1:{settings['websocket_port']}/ws"
            self.door_proxies[number] = await self._proxy(direct)
        self.nodes[number] = node
        self._made = max(self._made, number + 1)
        return node

    async def _proxy(self, url: str) -> FaultProxy:
        parts = urlsplit(url)
        proxy = FaultProxy(parts.hostname or "127.0.0.1", parts.port or 0)
        await proxy.start()
        self._parts.push_async_callback(proxy.close)
        return proxy

    # --- nodes ----------------------------------------------------------------------------

    async def kill(self, number: int) -> None:
        """SIGKILL. `start_node` starts it again, at its address."""
        await self.nodes[number].kill()

    async def term(self, number: int) -> int:
        """SIGTERM, and wait until it has drained and ended; returns the exit code."""
        return await self.nodes[number].stop()

    def pause(self, number: int) -> None:
        """SIGSTOP: it stands still, its connections stay open."""
        os.kill(self.nodes[number].pid, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        os.kill(self.nodes[number].pid, signal.SIGCONT)

    def set_clock(self, number: int, ahead_s: float) -> None:
        """Step the wall clock of a node that was made with a skewed one."""
        aside = self.folder / f"clock{number}.new"
        aside.write_text(str(ahead_s))
        aside.replace(self._clock_file(number))

    def _clock_file(self, number: int) -> Path:
        return self.folder / f"clock{number}"

    async def start_node(self, number: int, ready_wait_s: float = READY_WAIT_S) -> None:
        """Start a node that was killed or terminated. Raises Unavailable."""
        await self.nodes[number].start(ready_wait_s)

    async def restart(self, number: int) -> None:
        """SIGTERM, then the same node again. Raises Unavailable."""
        await self.term(number)
        await self.start_node(number)

    def program(self, source: Path | None) -> None:
        """Nodes made from now on run the checkout `source`; None: this very program."""
        self._source = source

    async def rolling_restart(self, *, surge: bool = True) -> None:
        """Replace every node, one after another.

        With `surge`, as an orchestrator does with maxSurge 1 and maxUnavailable 0: a new node
        is ready before an old one is told to end. Without: each is restarted in its place.
        Raises Unavailable.
        """
        for number in sorted(self.nodes):
            if not surge:
                await self.restart(number)
                await self.wait_ready(len(self.nodes))
                continue
            await self.replace(number)

    async def replace(self, number: int) -> None:
        """A new node like this one; when it is ready the old one is told to end. Raises
        Unavailable."""
        old = self.nodes[number]
        fresh = await self._make_node(self._made, old.services)
        await fresh.start()
        await self.wait_ready(len(self.nodes))
        await old.stop()
        del self.nodes[number]
        self._ready.discard(number)

    def cpu_s(self) -> float:
        """Processor seconds of all nodes that run."""
        return sum(node.cpu_s() for node in self.nodes.values() if node.pid)

    def log_text(self) -> str:
        return "\n".join(node.log_text() for node in self.nodes.values())

    # --- who finds them -------------------------------------------------------------------

    @property
    def ready(self) -> frozenset[int]:
        """The nodes that said so when asked last."""
        return frozenset(self._ready & self.nodes.keys())

    def pick(self, excluding: Collection[str] = ()) -> str:
        """The WebSocket URL of a node that is ready, at random, others than `excluding` first.

        As with a load balancer it may have ended since it was asked. Raises Unavailable.
        """
        urls = [self.url(number) for number in self.ready if self._relays(number)]
        if not urls:
            raise Unavailable("no node is ready")
        preferred = [url for url in urls if url not in excluding]
        return random.choice(preferred or urls)  # noqa: S311 - no secret

    def _relays(self, number: int) -> bool:
        services = self.nodes[number].services
        return services == "all" or "messaging" in services

    def url(self, number: int) -> str:
        """Where clients reach node `number`: its WebSocket, or the proxy before it."""
        url = f"ws://127.0.0.1:{self.nodes[number].settings['websocket_port']}/ws"
        proxy = self.door_proxies.get(number)
        return proxy.before(url) if proxy else url

    async def wait_ready(self, count: int, within_s: float = READY_WAIT_S) -> None:
        """Wait until so many nodes are ready. Raises Unavailable."""
        await self.until(lambda: len(self.ready) >= count, within_s)

    async def until(self, holds: Callable[[], bool], within_s: float = READY_WAIT_S) -> None:
        """Wait until something about the nodes holds, as they are seen when asked.

        Raises Unavailable.
        """
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    self._asked.clear()
                    await self._asked.wait()
        except TimeoutError:
            raise Unavailable(f"only nodes {sorted(self.ready)} are ready") from None

    def token(self, user: str, scopes: Sequence[str] = ("user",)) -> str:
        """A token that every node takes."""
        return self._tokens.mint(user, TOKEN_TTL_S, scopes)

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        """The store behind all nodes, past every proxy. Raises Unavailable."""
        from angarium.storage.mongo.store import open_mongo

        opened = await open_mongo(self.store_url, SystemClock(), database=self._database)
        try:
            yield opened.store
        finally:
            await opened.close()

    async def _watch(self) -> None:
        """Ask every node, again and again, whether it is ready."""
        async with httpx2.AsyncClient(trust_env=False, timeout=POLL_WAIT_S) as http:
            while True:
                numbers = list(self.nodes)
                await asyncio.gather(*(self._ask(http, number) for number in numbers))
                self._asked.set()
                await asyncio.sleep(POLL_EVERY_S)

    async def _ask(self, http: httpx2.AsyncClient, number: int) -> None:
        node = self.nodes.get(number)
        is_ready = False
        if node is not None and node.pid and node.http_url:
            try:
                is_ready = (await http.get(f"{node.http_url}/readyz")).status_code == 200
            except httpx2.TransportError:
                pass  # Dead, standing still, or not there yet: not ready.
        (self._ready.add if is_ready else self._ready.discard)(number)


def with_database(uri: str, name: str) -> str:
    """The MongoDB URI with this database as its path."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, parts.fragment))
