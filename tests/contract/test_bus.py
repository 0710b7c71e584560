"""One suite for every bus: two nodes, what one says and what the other hears."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from angarium.bus.contract import (
    Appended,
    Bus,
    DevicesChanged,
    Displaced,
    Ephemeral,
    Event,
    Joined,
    Left,
)
from angarium.bus.local import LocalBus
from angarium.bus.redis import open_redis_bus
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.testing.redis_server import RedisServer

from .buses import ANN, TALK, need_redis, until

PHONE = DeviceId("ANNPHONE")
ONE_OF_EACH: list[Event] = [
    Appended(TALK, 3, 17, (ANN, UserId("@bob:test"))),
    Ephemeral(TALK, (ANN,), b"\x00frame\xff", PHONE),
    Ephemeral(TALK, (), b"", None),
    DevicesChanged(ANN),
    Joined(TALK, ANN),
    Left(TALK, ANN),
    Displaced(ANN, PHONE, 1_790_000_000_000_123),
]


@dataclass
class Pair:
    """The bus as two nodes have it, and what each heard, batch by batch."""

    one: Bus
    two: Bus
    batches: list[list[Event]] = field(default_factory=list)
    ones: list[Event] = field(default_factory=list)
    twos: list[Event] = field(default_factory=list)
    stops: list[Callable[[], None]] = field(default_factory=list)

    def listen(self) -> None:
        self.stops.append(self.one.subscribe(self.ones.extend))
        self.stops.append(self.two.subscribe(self.hear_two))

    def hear_two(self, events: list[Event]) -> None:
        self.batches.append(events)
        self.twos += events

    async def fence(self) -> None:
        """Whatever was said before this has arrived."""
        end = Left(ConversationId("fence"), UserId(str(len(self.twos))))
        self.one.publish([end])
        await until(lambda: end in self.twos and end in self.ones)
        self.ones.remove(end)
        self.twos.remove(end)


Scenario = Callable[[Pair], Awaitable[None]]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need_redis()
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    asyncio.run(server.start())
    yield server.url
    server.kill()


@pytest.fixture(params=["local", "redis"])
def with_buses(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario with the bus of two nodes."""
    kind = request.param
    url = request.getfixturevalue("redis_url") if kind == "redis" else ""
    namespace = f"test-{os.urandom(4).hex()}"

    async def run(scenario: Scenario) -> None:
        if kind == "local":
            bus = LocalBus()
            await scenario(Pair(bus, bus))
            return
        one = await open_redis_bus(url, namespace=namespace)
        two = await open_redis_bus(url, namespace=namespace)
        try:
            assert one.hears
            assert two.hears
            await scenario(Pair(one, two))
        finally:
            await one.close()
            await two.close()

    return lambda scenario: asyncio.run(run(scenario))


def test_every_kind_of_event_arrives_as_it_was_said(
    with_buses: Callable[[Scenario], None],
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        pair.one.publish(list(ONE_OF_EACH))
        await until(lambda: len(pair.twos) >= len(ONE_OF_EACH))

        assert pair.twos == ONE_OF_EACH

    with_buses(scenario)


def test_a_publishers_events_are_heard_in_the_order_they_were_said(
    with_buses: Callable[[Scenario], None],
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        said: list[Event] = [Appended(TALK, 1, n, (ANN,)) for n in range(1, 3001)]
        for at in range(0, len(said), 7):
            pair.one.publish(said[at : at + 7])
            if at % 3 == 0:
                await asyncio.sleep(0)
        await pair.fence()

        assert pair.twos == said
        assert pair.ones == said

    with_buses(scenario)


def test_a_publisher_hears_its_own_events_once(with_buses: Callable[[Scenario], None]) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        pair.one.publish([Joined(TALK, ANN)])
        await pair.fence()

        assert pair.ones == [Joined(TALK, ANN)]

    with_buses(scenario)


def test_publishing_calls_nobody_before_it_returns(
    with_buses: Callable[[Scenario], None],
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        pair.one.publish([Joined(TALK, ANN)])
        assert pair.ones == []

        await asyncio.sleep(0.001)
        assert pair.ones == [Joined(TALK, ANN)]

    with_buses(scenario)


def test_events_of_one_turn_of_the_loop_arrive_together(
    with_buses: Callable[[Scenario], None],
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        for n in range(1, 101):
            pair.one.publish([Appended(TALK, 1, n, (ANN,))])
        await until(lambda: len(pair.twos) == 100)

        assert len(pair.batches) == 1

    with_buses(scenario)


def test_who_stopped_listening_hears_nothing_more(
    with_buses: Callable[[Scenario], None],
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        late: list[Event] = []
        stop = pair.two.subscribe(late.extend)
        await pair.fence()
        heard = len(late)
        stop()
        pair.one.publish([Joined(TALK, ANN)])
        await pair.fence()

        assert heard == 1
        assert len(late) == 1

    with_buses(scenario)


def test_nothing_to_say_is_no_event(with_buses: Callable[[Scenario], None]) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        pair.one.publish([])
        await pair.fence()

        assert pair.twos == []

    with_buses(scenario)


def test_what_cannot_be_said_raises_nothing_and_stops_nothing(
    with_buses: Callable[[Scenario], None],
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.listen()
        broken = DevicesChanged(UserId("@\ud800:test"))
        pair.one.publish([broken, Joined(TALK, ANN)])
        await pair.fence()

        assert [event for event in pair.twos if event != broken] == [Joined(TALK, ANN)]

    with_buses(scenario)
