"""What nodes share, in Redis."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from angarium.adapters.wire import Figures, Wire
from angarium.bus.local import LocalBus
from angarium.bus.redis import open_redis_bus
from angarium.bus.redis_breakers import RedisBreakers
from angarium.bus.redis_cache import RedisCache
from angarium.bus.redis_link import RedisLink, open_link
from angarium.bus.redis_presence import RedisPresence
from angarium.bus.redis_rates import RedisRates
from angarium.bus.redis_registry import RedisRegistry
from angarium.bus.registry import OnLost
from angarium.clock import Clock
from angarium.server.limiter import Limiter, RateCheck
from angarium.server.shared_limiter import SharedLimiter


class RedisWire(Wire):
    """One link for everything that is asked, and a subscription with `listen`. Redis may be
    away: then a node goes by what it sees itself."""

    def __init__(self, link: RedisLink, node: str, space: str, clock: Clock) -> None:
        super().__init__(LocalBus(), lambda: True)
        self._link, self._node, self._space, self._clock = link, node, space, clock
        self._parts = AsyncExitStack()
        self._parts.push_async_callback(link.close)
        self._figures: dict[str, Figures] = {}
        self._breakers = RedisBreakers(link, node, clock, namespace=space)
        self.peers = self._breakers
        self.cache = cache = RedisCache(link, clock, namespace=space)
        self._figures["cache"] = cache.figures

    async def listen(self, url: str, lost: OnLost) -> None:
        """Hear other nodes and be known to them. Raises Misconfigured."""
        bus = await open_redis_bus(url, namespace=self._space)
        self._parts.push_async_callback(bus.close)
        self.bus, self.hears = bus, lambda: bus.hears
        self._figures["bus"] = bus.figures
        self.registry = RedisRegistry(
            self._link, self._node, self._clock, namespace=self._space, on_lost=lost
        )
        self.presence = RedisPresence(
            self._link, self._node, self._clock, self.registry.nodes, namespace=self._space
        )

    async def start(self) -> None:
        await self._breakers.start()
        self._parts.push_async_callback(self._breakers.close)
        self._figures["breakers"] = self._breakers.figures

    def figures(self) -> Mapping[str, Figures]:
        return self._figures

    async def shared(self, name: str, limiter: Limiter, per_minute: int) -> RateCheck:
        rates = RedisRates(self._link, name, per_minute, namespace=self._space)
        shared = SharedLimiter(limiter, rates)
        await shared.start()
        self._parts.push_async_callback(shared.close)
        self._figures[f"limiter_{name}"] = shared.figures
        return shared

    async def close(self) -> None:
        await self._parts.aclose()


async def open_redis_wire(
    url: str, node: str, space: str, clock: Clock, lost: OnLost | None
) -> RedisWire:
    """A wire whose keys and topics begin with `space`; with `lost` it also hears other nodes.

    Raises Misconfigured.
    """
    wire = RedisWire(open_link(url), node, space, clock)
    try:
        if lost is not None:
            await wire.listen(url, lost)
        await wire.start()
    except BaseException:
        await wire.close()
        raise
    return wire
