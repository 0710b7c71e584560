"""Which node holds a device's connection. Soft: it may forget, and decides nothing stored.

An epoch fences a device's connections: the newer one has the larger epoch, whichever node it
is on, so the older one can be told to go (close 4409) and can not wipe the newer one's entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from angarium.clock import Clock
from angarium.ids import DeviceId, UserId
from angarium.limits import NODE_LEASE_S


@dataclass(frozen=True, slots=True)
class Holder:
    """A connection of `epoch`, on `node`."""

    node: str
    epoch: int


OnLost = Callable[[set[str]], None]
"""Called on the loop with nodes that are gone: released, dead or cut off."""


class Registry(Protocol):
    """As one node sees it. `renew` is called each NODE_LEASE_RENEW_S by whoever owns it."""

    async def take(self, user: UserId, device: DeviceId) -> int:
        """This node has a new connection of the device; returns its epoch.

        The epoch is larger than any before it, also when entries were lost (as far as the
        server's clock does not step back). Raises Unavailable.
        """
        ...

    async def drop(self, user: UserId, device: DeviceId, epoch: int) -> None:
        """That connection ended. A newer one's entry stays. Raises Unavailable."""
        ...

    async def find(self, user: UserId) -> dict[DeviceId, Holder]:
        """Connections of the user's devices on nodes that live. Raises Unavailable."""
        ...

    async def nodes(self) -> set[str]:
        """Nodes whose lease runs. Raises Unavailable."""
        ...

    async def renew(self) -> None:
        """This node lives NODE_LEASE_S longer. Raises Unavailable.

        If its lease had ended, or everything was lost, its entries are written again.
        """
        ...

    async def release(self) -> None:
        """This node goes: its lease ends now. Raises Unavailable."""
        ...


class Table:
    """What the registries of one process share."""

    def __init__(self) -> None:
        self.held: dict[UserId, dict[DeviceId, Holder]] = {}
        self.lease_ends_s: dict[str, float] = {}
        self.epoch = 0


class LocalRegistry:
    """Implements `Registry` inside one process; nodes of a test share one table."""

    def __init__(
        self,
        node: str,
        clock: Clock,
        table: Table | None = None,
        *,
        on_lost: OnLost = lambda nodes: None,
    ) -> None:
        self._node, self._clock = node, clock
        self._table = Table() if table is None else table
        self._on_lost = on_lost
        self._known: set[str] = set()

    async def take(self, user: UserId, device: DeviceId) -> int:
        self._table.epoch += 1
        holder = Holder(self._node, self._table.epoch)
        self._table.held.setdefault(user, {})[device] = holder
        return holder.epoch

    async def drop(self, user: UserId, device: DeviceId, epoch: int) -> None:
        devices = self._table.held.get(user, {})
        holder = devices.get(device)
        if holder is not None and holder.epoch == epoch:
            del devices[device]
            if not devices:
                del self._table.held[user]

    async def find(self, user: UserId) -> dict[DeviceId, Holder]:
        live = await self.nodes()
        held = self._table.held.get(user, {})
        return {device: holder for device, holder in held.items() if holder.node in live}

    async def nodes(self) -> set[str]:
        now_s = self._clock.monotonic_s()
        return {node for node, end_s in self._table.lease_ends_s.items() if end_s > now_s}

    async def renew(self) -> None:
        self._table.lease_ends_s[self._node] = self._clock.monotonic_s() + NODE_LEASE_S
        live = await self.nodes()
        lost, self._known = self._known - live, live
        if lost:
            self._on_lost(lost)

    async def release(self) -> None:
        self._table.lease_ends_s.pop(self._node, None)
