"""Links in memory that delay, cut, half-open and lose, as the seed decides.

A link is a pair of ends. Messages of one direction arrive in order or not at all, as on TCP:
what a cut loses is always the tail. Adapters give the ends the shapes of the server's engine
and of the client's connector.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from angarium.testing.simulation.loop import Process, VirtualLoop

CLOSED_ABNORMALLY = 1006


@dataclass(slots=True)
class Weather:
    """How bad the network is. All chances are per message; times in seconds."""

    delay_s: float = 0.02
    cut: float = 0.0  # The link breaks under this message: it and all after it are lost.
    cut_after: float = 0.0  # The message arrives, then the link breaks (the answer is lost).
    half_open: float = 0.0  # From here on this direction silently loses everything.
    slow: float = 0.0  # This message, and so all behind it, comes `slow_s` late.
    slow_s: float = 3.0
    refuse: float = 0.0  # Per attempt to connect.

    def clear(self) -> None:
        """Faults stop; what is broken already is found by heartbeats."""
        self.cut = self.cut_after = self.half_open = self.slow = self.refuse = 0.0


@dataclass(slots=True)
class End:
    """One end. `on_message` and `on_close` are set by whoever holds it."""

    link: "Link"
    process: Process
    to_server: bool
    on_message: Callable[[bytes], None] = lambda payload: None
    on_close: Callable[[int, str], None] = lambda code, reason: None
    closed: bool = False

    def send(self, payload: bytes) -> None:
        """Hand over; nothing tells whether it arrives."""
        if not self.closed and self.process.alive:
            self.link.carry(self, payload)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close from this end: the other one learns after what is in flight."""
        if self.closed:
            return
        self.closed = True
        self.link.carry_close(self, code, reason)

    def _arrived(self, payload: bytes) -> None:
        if not self.closed and self.process.alive:
            self.on_message(payload)

    def _ended(self, code: int, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        if self.process.alive:
            self.on_close(code, reason)


@dataclass(slots=True)
class Figures:
    """What the network did; a run that met no fault proves nothing."""

    opened: int = 0
    carried: int = 0
    lost: int = 0
    cut: int = 0
    half_open: int = 0
    slowed: int = 0
    refused: int = 0


class Link:
    """A connection between a client's process and a node's."""

    def __init__(
        self,
        loop: VirtualLoop,
        weather: Weather,
        chance: random.Random,
        figures: Figures,
        client: Process,
        node: Process,
    ) -> None:
        self._loop, self._weather, self._chance, self._figures = loop, weather, chance, figures
        self.client = End(self, client, to_server=True)
        self.server = End(self, node, to_server=False)
        self._free_at_s = {True: 0.0, False: 0.0}
        self._silent = {True: False, False: False}
        self._broken = False
        client.on_death.append(self.cut)
        node.on_death.append(self.cut)

    def carry(self, sender: End, payload: bytes) -> None:
        """Deliver later, or break on the way."""
        weather, chance, way = self._weather, self._chance, sender.to_server
        if self._broken or self._silent[way]:
            self._figures.lost += 1
            return
        if chance.random() < weather.half_open:
            self._silent[way] = True
            self._figures.half_open += 1
            self._figures.lost += 1
            return
        if chance.random() < weather.cut:
            self._figures.lost += 1
            self.cut()
            return
        self._figures.carried += 1
        other = self.server if way else self.client
        self._later(other, lambda: self._deliver(other, payload))
        if chance.random() < weather.cut_after:
            self._later(other, self.cut)

    def carry_close(self, sender: End, code: int, reason: str) -> None:
        if self._broken or self._silent[sender.to_server]:
            return
        other = self.server if sender.to_server else self.client
        self._later(
            other, lambda: self._loop.enter(other.process, lambda: other._ended(code, reason))
        )

    def cut(self) -> None:
        """Break both ways: what is in flight is lost, both ends learn soon."""
        if self._broken:
            return
        self._broken = True
        self._figures.cut += 1
        for end in (self.client, self.server):
            self._at(self._loop.time() + self._chance.uniform(0.0, 0.05), self._break_of(end))

    def _break_of(self, end: End) -> Callable[[], None]:
        return lambda: self._loop.enter(
            end.process, lambda: end._ended(CLOSED_ABNORMALLY, "the link broke")
        )

    def _deliver(self, other: End, payload: bytes) -> None:
        if not self._broken:
            self._loop.enter(other.process, lambda: other._arrived(payload))

    def _later(self, other: End, call: Callable[[], None]) -> None:
        weather, chance = self._weather, self._chance
        delay = chance.uniform(0.2, 1.8) * weather.delay_s
        if chance.random() < weather.slow:
            self._figures.slowed += 1
            delay += chance.uniform(0.0, weather.slow_s)
        way = not other.to_server
        due = max(self._free_at_s[way], self._loop.time() + delay)
        self._free_at_s[way] = due + 1e-5  # One direction keeps its order.
        self._at(due, call)

    def _at(self, when_s: float, call: Callable[[], None]) -> None:
        # The wire belongs to no process: it goes on when the sender dies.
        self._loop.call_at(when_s, call, context=_nobody())


def _nobody() -> contextvars.Context:
    return contextvars.Context()


@dataclass(slots=True)
class Network:
    """Makes links to the nodes that accept now."""

    loop: VirtualLoop
    weather: Weather
    chance: random.Random
    figures: Figures = field(default_factory=Figures)
    links: list[Link] = field(default_factory=list)

    async def connect(
        self, client: Process, node: Process, accept: Callable[[Link], None]
    ) -> Link:
        """Connect `client` to `node`. Raises ConnectionRefusedError."""
        await asyncio.sleep(self.chance.uniform(0.5, 2.0) * self.weather.delay_s)
        if not node.alive or self.chance.random() < self.weather.refuse:
            self.figures.refused += 1
            raise ConnectionRefusedError("no node answers")
        link = Link(self.loop, self.weather, self.chance, self.figures, client, node)
        self.figures.opened += 1
        self.links.append(link)
        self.loop.enter(node, lambda: accept(link))
        return link
