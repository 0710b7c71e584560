"""Connections to Redis, whatever stands behind the URL: one server, Sentinel or a cluster.

    redis://[user:password@]host:port/db            one server; rediss:// with TLS
    unix:///path/to/socket?db=0                     one server on this machine
    redis+sentinel://[user:password@]host:port,host:port/name[/db]
    redis+cluster://[user:password@]host:port,host:port
    rediss+sentinel:// and rediss+cluster://        the same with TLS

Sentinels are asked without a password, or with `?sentinel_password=`. The rest of a query is
for redis-py (`ssl_ca_certs=`, `ssl_certfile=` ...).
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from angarium.errors import Misconfigured, Unavailable
from angarium.limits import BUS_SEND_WAIT_S, SOFT_WAIT_S
from angarium.resilience import cancellable

try:
    import redis.asyncio as aredis
    from redis.asyncio.cluster import ClusterNode, ClusterPubSub
    from redis.asyncio.connection import SSLConnection, parse_url
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        NoPermissionError,
        RedisClusterException,
        RedisError,
    )
except ImportError as error:
    raise Misconfigured(
        "a redis URL is set and the Redis client is not installed: "
        "install it with `pip install 'angarium[cluster]'`"
    ) from error

T = TypeVar("T")
REDIS_FAILS = (RedisError, RedisClusterException, OSError)  # Time-outs are among them.
REDIS_REFUSES = (AuthenticationError, NoPermissionError)
_SCHEMES = (
    "redis", "rediss", "unix",
    "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_SENTINEL_PORT, _REDIS_PORT = 26379, 6379


class RedisLink:
    """A client that tries each command once; whoever calls decides about trying again.

    A command without an answer fails after `wait_s`.
    """

    def __init__(self, client: Any, wait_s: float, *, sentinel: Any = None) -> None:
        self.client, self.wait_s, self._sentinel = client, wait_s, sentinel
        self.clustered = isinstance(client, aredis.RedisCluster)

    async def offers_sharded(self, topic: str) -> bool:
        """Whether the topic's server knows sharded pub/sub (Redis 7, Valkey).

        Raises REDIS_FAILS.
        """
        named = {}
        if self.clustered:
            await self.client.initialize()
            # Asked anew: topics move between servers, and a subscription is not redirected.
            await self.client.nodes_manager.initialize()
            named["target_nodes"] = self.client.get_node_from_key(topic)
        asked = self.client.execute_command("COMMAND INFO", "SSUBSCRIBE", **named)
        answer = await cancellable(asked)
        if isinstance(answer, Mapping):
            return "ssubscribe" in answer
        return bool(answer and answer[0])

    async def subscription(self, topics: list[str], *, sharded: bool) -> "Subscription":
        """Ask for these topics; in a cluster, sharded, for one at a time.

        The server has confirmed nothing yet. Raises REDIS_FAILS.
        """
        outer = self.client.pubsub()
        try:
            if sharded:
                await cancellable(outer.ssubscribe(*topics))
            else:
                await cancellable(outer.subscribe(*topics))
            inner = outer
            if sharded and isinstance(outer, ClusterPubSub):
                # The one connection to the server that owns the topic.
                inner = next(iter(outer.node_pubsub_mapping.values()))
        except BaseException:
            await outer.aclose()
            raise
        return Subscription(outer, inner)

    async def publish(self, topic: str, payload: bytes, *, sharded: bool) -> None:
        """One PUBLISH. Raises REDIS_FAILS."""
        command = "SPUBLISH" if sharded else "PUBLISH"
        await cancellable(self.client.execute_command(command, topic, payload))

    async def script(self, source: str, key: str, *arguments: str | int) -> Any:
        """Run a script over one key. Raises REDIS_FAILS."""
        return await cancellable(self.client.eval(source, 1, key, *arguments))

    async def script_over(
        self, source: str, keys: Sequence[str], *arguments: str | float
    ) -> Any:
        """The same over many keys; in a cluster they share a hash tag. Raises REDIS_FAILS."""
        return await cancellable(self.client.eval(source, len(keys), *keys, *arguments))

    async def close(self) -> None:
        await self.client.aclose()
        if self.clustered:
            # After a failure the client takes itself for closed and leaves its connections.
            for known in ("nodes_cache", "startup_nodes"):
                await self.client.nodes_manager.aclose(known)
        if self._sentinel is not None:
            await self._sentinel.aclose()


class Subscription:
    """One subscribed connection. `outer` is closed, `inner` is read."""

    def __init__(self, outer: Any, inner: Any) -> None:
        self._outer, self._inner = outer, inner

    async def next(self, wait_s: float) -> Mapping[str, Any] | None:
        """The next message or confirmation; None when nothing came. Raises REDIS_FAILS."""
        message: Mapping[str, Any] | None = await self._inner.get_message(timeout=wait_s)
        return message

    async def ping(self) -> None:
        await cancellable(self._inner.ping())

    async def close(self) -> None:
        if self._inner is not self._outer:
            await self._inner.aclose()
        await self._outer.aclose()


async def in_time(call: Awaitable[T], wait_s: float = SOFT_WAIT_S) -> T:
    """What Redis answers within `wait_s`. Raises Unavailable."""
    try:
        async with asyncio.timeout(wait_s):
            return await cancellable(call)
    except (TimeoutError, *REDIS_FAILS) as error:
        raise Unavailable("redis does not answer") from error


def lua(name: str) -> str:
    """The script of that name, beside its Python."""
    return (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")


def open_link(url: str, *, wait_s: float = BUS_SEND_WAIT_S) -> RedisLink:
    """A link for the URL; nothing is connected yet. Raises Misconfigured, without the URL."""
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise Misconfigured(f"a redis URL begins with one of {', '.join(_SCHEMES)}")
    named: dict[str, Any] = {
        "socket_timeout": wait_s,
        "socket_connect_timeout": wait_s,
        "protocol": 2,  # A subscribed connection answers pings the same way everywhere.
    }
    try:
        if scheme.endswith("+sentinel"):
            return _sentinel_link(url, named)
        if scheme.endswith("+cluster"):
            return _cluster_link(url, named)
        return RedisLink(aredis.Redis.from_url(url, retry=_once(), **named), wait_s)
    except Exception:
        # Without the cause: it may quote the URL, and that may hold a password.
        raise Misconfigured("the redis URL is malformed; see the forms in the manual") from None


def _once() -> Retry:
    return Retry(NoBackoff(), 0)


def _hosts(netloc: str, default_port: int) -> list[tuple[str, int]]:
    found = []
    for each in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        found.append((parts.hostname, parts.port or default_port))
    return found


def _options(url: str) -> dict[str, Any]:
    """User and password, TLS or not, and the query's options, as redis-py reads them."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    scheme = parts.scheme.partition("+")[0]
    named: dict[str, Any] = {
        **parse_url(f"{scheme}://{credentials}{at}localhost?{parts.query}")
    }
    del named["host"]
    if named.pop("connection_class", None) is SSLConnection:
        named["ssl"] = True
    return named


def _sentinel_link(url: str, named: dict[str, Any]) -> RedisLink:
    parts = urlsplit(url)
    name, _, db = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("the name of the primary is missing")
    options = _options(url)
    sentinel_password = options.pop("sentinel_password", None)
    sentinel_named = named | {"password": sentinel_password, "retry": _once()}
    if "ssl" in options:
        sentinel_named |= {key: value for key, value in options.items() if "ssl" in key}
    hosts = _hosts(parts.netloc, _SENTINEL_PORT)
    sentinels: Any = Sentinel
    sentinel = sentinels(hosts, sentinel_kwargs=sentinel_named, **named)
    client = sentinel.master_for(name, db=int(db or 0), retry=_once(), **options)
    return RedisLink(client, named["socket_timeout"], sentinel=sentinel)


def _cluster_link(url: str, named: dict[str, Any]) -> RedisLink:
    parts = urlsplit(url)
    if parts.path.strip("/"):
        raise ValueError("a cluster has no databases")
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, _REDIS_PORT)]
    # One more try: the first failure may only mean that the topic moved to another server.
    client = aredis.RedisCluster(
        startup_nodes=nodes, retry=Retry(NoBackoff(), 1), **(named | _options(url))
    )
    return RedisLink(client, named["socket_timeout"])
