"""Which users are connected to which node. Soft: it may forget, and decides nothing stored."""

from collections.abc import Collection
from typing import Protocol

from angarium.ids import UserId


class Presence(Protocol):
    """As one node tells and sees it. `renew` is called each NODE_LEASE_RENEW_S."""

    def came(self, user: UserId) -> None:
        """The user has a connection on this node now. Returns at once."""
        ...

    def went(self, user: UserId) -> None:
        """The user's last connection on this node ended. Returns at once."""
        ...

    async def elsewhere(self, users: Collection[UserId]) -> set[UserId]:
        """Those of them who are connected to other nodes that live.

        What this node said before is told first, so of two nodes that ask after they said
        something at least one sees the other. Raises Unavailable, also when what the others
        said may be forgotten.
        """
        ...

    async def renew(self) -> None:
        """Tell the others again what was forgotten. Raises Unavailable."""
        ...

    async def release(self) -> None:
        """This node goes, and nobody is connected to it any more. Raises Unavailable."""
        ...


class LocalPresence:
    """Implements `Presence` inside one process; nodes of a test share one table."""

    def __init__(self, node: str, table: dict[str, set[UserId]] | None = None) -> None:
        self._table: dict[str, set[UserId]] = {} if table is None else table
        self._node = node
        self._here = self._table.setdefault(node, set())

    def came(self, user: UserId) -> None:
        self._here.add(user)

    def went(self, user: UserId) -> None:
        self._here.discard(user)

    async def elsewhere(self, users: Collection[UserId]) -> set[UserId]:
        others = (here for node, here in self._table.items() if node != self._node)
        return set(users) & set[UserId]().union(*others)

    async def renew(self) -> None:
        self._table[self._node] = self._here

    async def release(self) -> None:
        self._table.pop(self._node, None)
