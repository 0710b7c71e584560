"""The bus between simulated nodes: it drops, delays and doubles doorbells by the seed."""

import contextvars
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from angarium.bus.contract import Event, Listener, OnResubscribed
from angarium.testing.simulation.loop import Process, VirtualLoop


@dataclass(slots=True)
class BusWeather:
    """Chances are per batch and listening node."""

    drop: float = 0.0
    double: float = 0.0
    delay_s: float = 0.3

    def clear(self) -> None:
        self.drop = self.double = 0.0


@dataclass(slots=True)
class Air:
    """What all nodes share; each has a `port` of its own."""

    loop: VirtualLoop
    weather: BusWeather
    chance: random.Random
    seen: Callable[[Event], None] = lambda event: None
    dropped: int = 0
    carried: int = 0
    _ports: list["Port"] = field(default_factory=list)

    def port(self, process: Process) -> "Port":
        """The bus as `process` sees it; a dead process hears and says nothing."""
        self._ports = [port for port in self._ports if port.process.alive]
        port = Port(self, process)
        self._ports.append(port)
        return port

    def carry(self, events: list[Event]) -> None:
        for event in events:
            self.seen(event)
        for port in self._ports:
            if self.chance.random() < self.weather.drop:
                self.dropped += 1
                continue
            self.carried += 1
            for _ in range(2 if self.chance.random() < self.weather.double else 1):
                delay_s = self.chance.uniform(0.0, self.weather.delay_s)
                # On the wire it belongs to nobody: the sender may die meanwhile.
                self.loop.call_later(
                    delay_s, port.arrived, list(events), context=contextvars.Context()
                )


@dataclass(slots=True, eq=False)
class Port:
    """Implements `Bus` for one process."""

    air: Air
    process: Process
    _listeners: list[Listener] = field(default_factory=list)

    def publish(self, events: list[Event]) -> None:
        if self.process.alive:
            self.air.carry(events)

    def subscribe(
        self, listener: Listener, on_resubscribed: OnResubscribed | None = None
    ) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def arrived(self, events: list[Event]) -> None:
        if self.process.alive:
            for listener in tuple(self._listeners):
                self._tell(listener, events)

    def _tell(self, listener: Listener, events: list[Event]) -> None:
        self.air.loop.enter(self.process, lambda: listener(events))
