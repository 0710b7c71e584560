"""The time of the database's server, which all nodes of a cluster share.

A node whose own clock is wrong, or is stepped, would take leases that are held, date messages
in the future and hold fresh ones for stale. So the server is asked, and asked again now and
then; in between this machine's monotonic clock counts on, which no step touches.
"""

import asyncio
from datetime import UTC, datetime

from angarium.clock import Clock
from angarium.errors import AngariumError
from angarium.limits import MONGO_TIME_EVERY_S
from angarium.storage.mongo.link import Link


class ServerClock:
    """A Clock. Before `measure`, and with a server that tells no time, it is `clock`."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link, self._clock = link, clock
        self._measured: tuple[int, float] | None = None  # The server's ms, and when, monotonic.

    def now_ms(self) -> int:
        if self._measured is None:
            return self._clock.now_ms()
        server_ms, at_s = self._measured
        return server_ms + round((self._clock.monotonic_s() - at_s) * 1000)

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    @property
    def ahead_ms(self) -> int:
        """How much this machine's own clock is ahead of the server's."""
        return self._clock.now_ms() - self.now_ms()

    async def measure(self) -> None:
        """Ask the server; right to half the time that takes. Raises Unavailable."""
        asked_s = self._clock.monotonic_s()
        answer = await self._link.call(
            lambda: self._link.client.admin.command("hello"), bounded=False
        )
        told = answer.get("localTime")
        if told is not None:
            at_s = (asked_s + self._clock.monotonic_s()) / 2
            self._measured = (_ms(told), at_s)

    async def run(self) -> None:
        """Ask again each MONGO_TIME_EVERY_S, for ever; a server that is away is asked later."""
        while True:
            await asyncio.sleep(MONGO_TIME_EVERY_S)
            try:
                await self.measure()
            except AngariumError:
                pass  # What was measured last counts on.


def _ms(told: datetime) -> int:
    return round(told.replace(tzinfo=UTC).timestamp() * 1000)
