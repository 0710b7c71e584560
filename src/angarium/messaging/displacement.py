"""Of one device only the newest connection stays, whichever node it came to."""

from angarium.bus.contract import Bus, Displaced
from angarium.bus.registry import Registry
from angarium.clock import Clock
from angarium.errors import AngariumError, Replaced
from angarium.limits import REGISTRY_IN_TIME_S
from angarium.messaging.chores import Chores
from angarium.messaging.connection import Connection
from angarium.messaging.hub import Hub


class Displacement:
    """On this node the order of arrival decides, between nodes the registry's epoch.

    A connection that drains stays: its device is moving and will say bye. Without a registry,
    or while it does not answer, an older connection elsewhere ends by its missing heartbeats.
    """

    def __init__(
        self, hub: Hub, bus: Bus, registry: Registry | None, chores: Chores, clock: Clock
    ) -> None:
        self._hub, self._bus, self._registry = hub, bus, registry
        self._chores, self._clock = chores, clock

    def came(self, connection: Connection) -> None:
        """The connection was welcomed."""
        for other in list(self._hub.of_user(connection.user)):
            if other.device == connection.device and other.number < connection.number:
                self._displace(other)
        if self._registry is not None:
            self._chores.start(self._take(self._registry, connection), "messaging.registry")

    def went(self, connection: Connection) -> None:
        """The connection ended. Call after it was taken from the hub."""
        if self._registry is not None and connection.epoch:
            self._chores.start(self._drop(self._registry, connection), "messaging.registry")

    def stop(self) -> None:
        """The node goes: its entries end with its lease."""
        self._registry = None

    def told(self, event: Displaced) -> None:
        """Somewhere a device connected; what is older here goes."""
        for connection in list(self._hub.of_user(event.user)):
            if connection.device == event.device:
                connection.displaced_epoch = max(connection.displaced_epoch, event.epoch)
                self._judge(connection)

    async def _take(self, registry: Registry, connection: Connection) -> None:
        asked_s = self._clock.monotonic_s()
        try:
            epoch = await registry.take(connection.user, connection.device)
        except AngariumError:
            return
        connection.epoch = epoch
        if connection not in self._hub.of_user(connection.user):
            await self._drop(registry, connection)
            return
        # A client waits before it connects again. When the registry was slower than that, the
        # larger epoch does not show the newer connection; a wrong 4409 would stop the client.
        if self._clock.monotonic_s() - asked_s < REGISTRY_IN_TIME_S:
            self._bus.publish([Displaced(connection.user, connection.device, epoch)])
            self._judge(connection)

    async def _drop(self, registry: Registry, connection: Connection) -> None:
        try:
            await registry.drop(connection.user, connection.device, connection.epoch)
        except AngariumError:
            pass  # The entry is forgotten with its age; nothing depends on it.

    def _judge(self, connection: Connection) -> None:
        if 0 < connection.epoch < connection.displaced_epoch:
            self._displace(connection)

    def _displace(self, connection: Connection) -> None:
        if not connection.machine.draining:
            replaced = Replaced("a newer connection of this device took over")
            self._hub.refuse(connection, replaced)
