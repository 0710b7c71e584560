"""What nodes share beside the store: doorbells, registry, rates, breakers. Alone: nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from angarium.bus.cache import Cache
from angarium.bus.contract import Bus
from angarium.bus.presence import Presence
from angarium.bus.registry import Registry
from angarium.errors import AngariumError
from angarium.limits import NODE_LEASE_RENEW_S
from angarium.resilience import BreakerPeers
from angarium.server.limiter import Limiter, RateCheck
from angarium.telemetry.log import get_logger

Figures = Callable[[], Mapping[str, int | float]]
log = get_logger("angarium.node")


class Wire:
    """How nodes tell each other what is new, and share what none must know alone.

    This one is a node alone: nothing is shared. Run `keep_lease` while the node serves.
    """

    registry: Registry | None = None
    presence: Presence | None = None
    peers: BreakerPeers | None = None
    cache: Cache | None = None

    def __init__(self, bus: Bus, hears: Callable[[], bool]) -> None:
        self.bus, self.hears = bus, hears

    def figures(self) -> Mapping[str, Figures]:
        """By the name of the part."""
        return {}

    async def shared(self, name: str, limiter: Limiter, per_minute: int) -> RateCheck:
        """The limiter, with one rate for all nodes."""
        return limiter

    async def keep_lease(self) -> None:
        """Renew this node's lease until cancelled; then it is given back. Redis may be away."""
        if self.registry is None:
            return
        try:
            while True:
                try:
                    await self.registry.renew()
                    if self.presence is not None:
                        await self.presence.renew()
                except AngariumError as error:
                    log.warning("registry.delayed", code=error.code)
                await asyncio.sleep(NODE_LEASE_RENEW_S)
        finally:
            if self.presence is not None:
                await _give_back(self.presence.release())
            await _give_back(self.registry.release())

    async def close(self) -> None:
        """Say what waits, and hear no more."""


async def _give_back(release: Awaitable[None]) -> None:
    try:
        await release
    except AngariumError:
        pass  # It ends by itself.
