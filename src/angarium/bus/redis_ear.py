"""One subscription to Redis, kept up: it reconnects for ever and says when it hears again."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from angarium.bus.redis_link import RedisLink, Subscription
from angarium.limits import (
    BUS_PING_EVERY_S,
    BUS_RECONNECT_MAX_S,
    BUS_RECONNECT_MIN_S,
)

log_lines = logging.getLogger("angarium.bus")
_CONFIRMED = ("subscribe", "ssubscribe")
_SAID = ("message", "smessage")
_LET_GO = ("unsubscribe", "sunsubscribe")


class Lost(Exception):
    """The subscription does not hear any more."""


class Ear:
    """Hears `topics`. `heard` gets each payload, `turned` whether it hears from now on.

    A subscription that is silent for `ping_every_s` is asked, and given up when it stays silent
    as long again, so that a frozen server or a half-open connection is found.
    """

    def __init__(
        self,
        link: RedisLink,
        topics: list[str],
        *,
        heard: Callable[[bytes], None],
        turned: Callable[["Ear", bool], None],
        chance: Callable[[], float],
        ping_every_s: float = BUS_PING_EVERY_S,
    ) -> None:
        self._link, self._topics = link, topics
        self._heard, self._turned = heard, turned
        self._chance, self._ping_every_s = chance, ping_every_s
        self.hears = self.sharded = False

    async def listen(self) -> None:
        """Until cancelled. Waits between attempts with full jitter; no failure ends it."""
        attempt = 0
        while True:
            heard = False
            try:
                await self._hear()
            except Exception as error:
                heard = self.hears
                if heard or not attempt:
                    extra = {"error": type(error).__name__}
                    log_lines.warning("bus.disconnected", extra=extra)
            finally:
                self._turn(False)
            attempt = 0 if heard else attempt + 1
            most_s = min(BUS_RECONNECT_MAX_S, BUS_RECONNECT_MIN_S * 2 ** min(attempt, 16))
            await asyncio.sleep(self._chance() * most_s)

    async def _hear(self) -> None:
        # Asked each time: the server may have been replaced by one of another version.
        self.sharded = await self._link.offers_sharded(self._topics[0])
        subscription = await self._link.subscription(self._topics, sharded=self.sharded)
        try:
            await self._confirm(subscription)
            self._turn(True)
            while True:
                await self._take(subscription)
        finally:
            await subscription.close()

    async def _confirm(self, subscription: Subscription) -> None:
        missing = len(self._topics)
        async with asyncio.timeout(self._link.wait_s):
            while missing:
                message = await subscription.next(self._link.wait_s)
                missing -= message is not None and message["type"] in _CONFIRMED

    async def _take(self, subscription: Subscription) -> None:
        message = await subscription.next(self._ping_every_s)
        if message is None:
            await subscription.ping()
            message = await subscription.next(self._ping_every_s)
        if message is None:
            raise Lost("the server is silent")
        self._understand(message)

    def _understand(self, message: Mapping[str, Any]) -> None:
        if message["type"] in _SAID:
            self._heard(message["data"])
        elif message["type"] in _LET_GO:
            raise Lost("the topic moved to another server")

    def _turn(self, hears: bool) -> None:
        if self.hears != hears:
            self.hears = hears
            self._turned(self, hears)
