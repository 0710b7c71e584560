"""The bus between nodes, over Redis pub/sub. Nothing that matters lives in it.

Every node hears every topic and passes over what concerns none of its connections: a doorbell
is some 150 bytes and one look into a dictionary. One server carries one topic; in a cluster the
events are spread over BUS_TOPICS_CLUSTER topics by conversation, so that each server carries a
share. What this node says is heard by its own listeners at once, without Redis.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from functools import partial

from angarium.bus.contract import Ephemeral, Event, Listener, OnResubscribed
from angarium.bus.outgoing import Outgoing, Waiting
from angarium.bus.redis_ear import Ear
from angarium.bus.redis_link import REDIS_FAILS, REDIS_REFUSES, RedisLink, open_link
from angarium.bus.wire import pack_batch, pack_event, topic_of, unpack_batch
from angarium.errors import Misconfigured, Unavailable
from angarium.limits import (
    BUS_OPEN_WAIT_S,
    BUS_PING_EVERY_S,
    BUS_RECONNECT_MAX_S,
    BUS_RECONNECT_MIN_S,
    BUS_TOPICS_CLUSTER,
)
from angarium.resilience import cancellable

log_lines = logging.getLogger("angarium.bus")
_SENDER_BYTES = 9


class RedisBus:
    """Implements `Bus`. `open` before use, `close` after it; the link is closed with it.

    While Redis is away, events wait (bounded, the oldest is dropped and counted) and ephemeral
    ones are dropped. Within one publisher and topic the order is kept. After an unclear failure
    events are said again, so one may be heard twice.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        namespace: str = "angarium",
        sender: bytes | None = None,
        chance: Callable[[], float] = random.random,
        ping_every_s: float = BUS_PING_EVERY_S,
        outgoing: Outgoing | None = None,
    ) -> None:
        self._link, self._chance = link, chance
        self._sender = sender or secrets.token_bytes(_SENDER_BYTES)
        count = BUS_TOPICS_CLUSTER if link.clustered else 1
        self._topics = [f"{namespace}:bus:{n}" for n in range(count)]
        # In a cluster each topic lives on a server of its own: one connection for each.
        self._ears = [
            Ear(
                link,
                [topic],
                heard=self._heard,
                turned=self._turned,
                chance=chance,
                ping_every_s=ping_every_s,
            )
            for topic in self._topics
        ]
        self._subscribers: list[tuple[Listener, OnResubscribed | None]] = []
        self._pending: list[Event] = []
        self._outgoing = Outgoing() if outgoing is None else outgoing
        self._said, self._all_hear = asyncio.Event(), asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._published = self._batches = self._heard_events = 0
        self._unknown = self._unpackable = self._disconnects = 0

    # --- life ---------------------------------------------------------------------------------

    async def open(self, wait_s: float = BUS_OPEN_WAIT_S) -> None:
        """Begin to hear and say. Redis may be away: then it is heard as soon as it is back.

        Raises Misconfigured when the server refuses the credentials.
        """
        self._tasks = [
            asyncio.create_task(ear.listen(), name="bus.listen") for ear in self._ears
        ]
        self._tasks.append(asyncio.create_task(self._speak(), name="bus.speak"))
        try:
            async with asyncio.timeout(wait_s):
                await self._check_credentials()
                await self._all_hear.wait()
        except TimeoutError:
            log_lines.warning("bus.away")
        except BaseException:
            await self.close()
            raise

    async def _check_credentials(self) -> None:
        try:
            await cancellable(self._link.client.ping())
        except REDIS_REFUSES:
            raise Misconfigured("redis refuses the user or password of its URL") from None
        except REDIS_FAILS:
            pass  # Away. The ears go on trying.

    async def close(self) -> None:
        """Say what waits, if Redis takes it in the link's `wait_s`, and end. Safe to repeat."""
        self._closing = True
        self._said.set()
        if self._tasks:
            await asyncio.wait(self._tasks[-1:], timeout=self._link.wait_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._link.close()

    async def check(self) -> None:
        """For the health page. Raises Unavailable while other nodes are not heard."""
        if not self.hears:
            raise Unavailable("redis does not answer; messages are delivered more slowly")

    @property
    def hears(self) -> bool:
        return all(ear.hears for ear in self._ears)

    def figures(self) -> dict[str, int | float]:
        return {
            "hearing": int(self.hears),
            "published": self._published,
            "batches": self._batches,
            "heard": self._heard_events,
            "waiting": len(self._outgoing),
            "dropped": self._outgoing.dropped + self._unpackable,
            "unknown": self._unknown,
            "disconnects": self._disconnects,
        }

    # --- saying -------------------------------------------------------------------------------

    def publish(self, events: list[Event]) -> None:
        """Own listeners hear at the loop's next turn, other nodes with the next PUBLISH."""
        if not events:
            return
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._tell_own)
        self._pending.extend(events)
        for event in events:
            try:
                packed = pack_event(event)
            except (ValueError, TypeError):
                self._unpackable += 1  # Publishing never raises; nothing depends on it.
                continue
            topic = topic_of(event, len(self._topics))
            self._outgoing.put(Waiting(topic, packed, isinstance(event, Ephemeral)))
        self._said.set()

    async def _speak(self) -> None:
        """One batch under way: what is said meanwhile goes together with the next."""
        attempt = 0
        while True:
            await self._said.wait()
            self._said.clear()
            while batch := self._outgoing.take():
                try:
                    await self._send(batch)
                    attempt = 0
                except Exception as error:
                    self._outgoing.put_back(batch)
                    if not attempt:
                        log_lines.warning("bus.unsent", extra={"error": type(error).__name__})
                    attempt += 1
                    if self._closing:
                        return
                    await self._wait_after(attempt)
            if self._closing:
                return

    async def _send(self, batch: list[Waiting]) -> None:
        by_topic: dict[int, list[bytes]] = {}
        for each in batch:
            by_topic.setdefault(each.topic, []).append(each.packed)
        for topic, packed in by_topic.items():
            payload = pack_batch(self._sender, packed)
            # As this topic's ear hears: the other nodes asked the same server.
            sharded = self._ears[topic].sharded
            await self._link.publish(self._topics[topic], payload, sharded=sharded)
            self._published += len(packed)
            self._batches += 1

    async def _wait_after(self, attempt: int) -> None:
        most_s = min(BUS_RECONNECT_MAX_S, BUS_RECONNECT_MIN_S * 2 ** min(attempt, 16))
        await asyncio.sleep(self._chance() * most_s)

    # --- hearing ------------------------------------------------------------------------------

    def subscribe(
        self, listener: Listener, on_resubscribed: OnResubscribed | None = None
    ) -> Callable[[], None]:
        subscriber = (listener, on_resubscribed)
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def _tell_own(self) -> None:
        events, self._pending = self._pending, []
        self._tell(events)

    def _heard(self, payload: bytes) -> None:
        sender, events, unknown = unpack_batch(payload)
        self._unknown += unknown
        if events and sender != self._sender:  # Own events were told at once.
            self._heard_events += len(events)
            self._tell(events)

    def _tell(self, events: list[Event]) -> None:
        for listener, _ in tuple(self._subscribers):
            self._guarded(partial(listener, list(events)))

    def _turned(self, ear: Ear, hears: bool) -> None:
        if not hears:
            self._disconnects += 1
            self._all_hear.clear()
            return
        if self.hears:
            self._all_hear.set()
        for _, on_resubscribed in tuple(self._subscribers):
            if on_resubscribed is not None:
                self._guarded(on_resubscribed)

    @staticmethod
    def _guarded(call: Callable[[], None]) -> None:
        """A listener's defect must not make this node deaf."""
        try:
            call()
        except Exception as error:
            log_lines.error("bus.listener_failed", extra={"error": type(error).__name__})


async def open_redis_bus(url: str, *, namespace: str = "angarium") -> RedisBus:
    """A bus that is open. Raises Misconfigured: malformed URL, refused credentials."""
    bus = RedisBus(open_link(url), namespace=namespace)
    await bus.open()
    return bus
