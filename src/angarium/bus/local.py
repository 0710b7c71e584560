"""The bus inside one process: listeners are called on the loop's next turn."""

import asyncio
from collections.abc import Callable

from angarium.bus.contract import Event, Listener, OnResubscribed


class LocalBus:
    """Loses nothing while the process lives; keeps the contract of one that might."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._pending: list[Event] = []

    def publish(self, events: list[Event]) -> None:
        if not self._pending:
            # One callback for all events of this turn of the loop.
            asyncio.get_running_loop().call_soon(self._deliver)
        self._pending.extend(events)

    def subscribe(
        self, listener: Listener, on_resubscribed: OnResubscribed | None = None
    ) -> Callable[[], None]:
        """`on_resubscribed` is never called: nothing is ever missed."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _deliver(self) -> None:
        events, self._pending = self._pending, []
        for listener in tuple(self._listeners):
            listener(events)
