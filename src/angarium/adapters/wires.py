"""The wire that the settings name."""

from angarium.adapters.wire import Wire
from angarium.bus.local import LocalBus
from angarium.bus.registry import OnLost
from angarium.clock import Clock
from angarium.config import Settings
from angarium.errors import Misconfigured


async def open_wire(
    settings: Settings, node: str, cluster: str, clock: Clock, on_lost: OnLost | None
) -> Wire:
    """The bus inside this process, or Redis where `bus_url` is set. Raises Misconfigured.

    Without `on_lost` this node serves no connections and hears nobody. `cluster` names the
    store: clusters on one Redis do not hear each other.
    """
    url = settings.bus_url.get_secret_value()
    alone = not settings.store_url.get_secret_value()
    if not url:
        # Without doorbells from other nodes, the store is asked each second.
        return Wire(LocalBus(), lambda: alone)
    if alone:
        raise Misconfigured("bus_url is set and store_url is not: nodes share both or neither")
    from angarium.adapters.redis_wire import open_redis_wire

    return await open_redis_wire(url, node, f"angarium:{cluster}", clock, on_lost)
