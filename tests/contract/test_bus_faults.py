"""Redis is killed, wiped, paused and cut off. The bus loses doorbells, never its temper."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from angarium.bus.contract import Ephemeral, Event
from angarium.bus.outgoing import Outgoing
from angarium.bus.redis_link import open_link
from angarium.errors import Misconfigured, Unavailable
from angarium.testing.redis_server import RedisServer, quiet_port

from .buses import ANN, PING_EVERY_S, TALK, Hearer, reaches, rung, served, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Scenario = Callable[[RedisServer, Hearer, Hearer], Awaitable[None]]


def on_two_nodes(folder: Path, scenario: Scenario, options: Sequence[str] = ()) -> None:
    async def work() -> None:
        async with (
            served(folder, *options) as server,
            Hearer(server.url) as one,
            Hearer(server.url) as two,
        ):
            await reaches(one, two, 0)
            await scenario(server, one, two)

    asyncio.run(work())


def test_after_a_kill_and_a_restart_both_hear_again_and_are_told(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        before = one.resubscribed, two.resubscribed
        server.kill()
        await until(lambda: not one.bus.hears and not two.bus.hears)
        for n in range(1, 50):
            one.bus.publish([rung(n)])
        with pytest.raises(Unavailable):
            await one.bus.check()
        await server.start()
        await until(lambda: one.bus.hears and two.bus.hears)

        assert (one.resubscribed, two.resubscribed) == (before[0] + 1, before[1] + 1)
        await reaches(one, two, 50)
        await reaches(two, one, 51)
        await one.bus.check()

    on_two_nodes(tmp_path, scenario)


def test_a_node_hears_itself_while_redis_is_away(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        server.kill()
        for n in range(1, 50):
            one.bus.publish([rung(n)])
            await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert one.events == [rung(n) for n in range(50)]

    on_two_nodes(tmp_path, scenario)


def test_lasting_events_said_while_redis_was_away_are_said_when_it_is_back(
    tmp_path: Path,
) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        typing = Ephemeral(TALK, (ANN,), b"typing")
        server.kill()
        await until(lambda: not one.bus.hears)
        one.bus.publish([rung(1), typing, rung(2)])
        await until(lambda: one.bus.figures()["dropped"] == 1)  # It was tried.
        await server.start()
        await until(lambda: one.bus.figures()["published"] == 3)

        assert one.bus.figures()["dropped"] == 1

    on_two_nodes(tmp_path, scenario)


def test_flushall_costs_no_event(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        link = open_link(server.url)
        for n in range(1, 101):
            one.bus.publish([rung(n)])
            if n % 10 == 0:
                await link.client.flushall()
        await link.close()
        await until(lambda: rung(100) in two.events)

        assert two.events == [rung(n) for n in range(101)]

    on_two_nodes(tmp_path, scenario)


def test_subscriptions_killed_in_a_loop_come_back_each_time(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        link = open_link(server.url)
        for n in range(1, 6):
            before = two.resubscribed
            await link.client.execute_command("CLIENT KILL", "TYPE", "pubsub")
            await until(lambda before=before: two.resubscribed > before)  # type: ignore[misc]
            await reaches(one, two, n)
        await link.close()

        assert two.bus.figures()["disconnects"] == 5

    on_two_nodes(tmp_path, scenario)


def test_a_paused_server_is_noticed_and_heard_again_when_it_goes_on(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        before = two.resubscribed
        server.pause()
        one.bus.publish([rung(1)])
        await until(lambda: not one.bus.hears and not two.bus.hears)
        server.resume()
        await until(lambda: one.bus.hears and two.bus.hears)

        assert two.resubscribed > before
        await reaches(one, two, 2)

    on_two_nodes(tmp_path, scenario)


def test_a_quiet_subscription_stays(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        await asyncio.sleep(4 * PING_EVERY_S)

        assert two.bus.figures()["disconnects"] == 0
        await reaches(one, two, 1)

    on_two_nodes(tmp_path, scenario)


def test_a_node_starts_without_redis_and_hears_it_when_it_comes(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path) as server:
            server.kill()
            async with Hearer(server.url) as one, Hearer(server.url) as two:
                assert not one.bus.hears
                await server.start()
                await until(lambda: one.bus.hears and two.bus.hears)

                assert two.resubscribed == 1
                await reaches(one, two, 1)

    asyncio.run(work())


def test_what_waits_is_bounded_and_the_oldest_goes() -> None:
    async def work() -> None:
        url = f"redis://127.0.0.1:{quiet_port()}"
        async with Hearer(url, outgoing=Outgoing(events_max=100)) as one:
            for n in range(1000):
                one.bus.publish([rung(n)])
            figures = one.bus.figures()
            assert figures["waiting"] == 100
            assert figures["dropped"] == 900

            await asyncio.sleep(0)
            assert len(one.events) == 1000

    asyncio.run(work())


def test_a_listener_that_fails_does_not_make_the_node_deaf(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        def fail(events: list[Event]) -> None:
            raise RuntimeError("a defect")

        two.bus.subscribe(fail)
        await reaches(one, two, 1)
        await reaches(one, two, 2)

    on_two_nodes(tmp_path, scenario)


def test_what_was_said_last_leaves_before_the_bus_closes(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        one.bus.publish([rung(1)])
        await one.bus.close()
        await until(lambda: rung(1) in two.events)

    on_two_nodes(tmp_path, scenario)


def test_a_server_without_sharded_topics_is_served_with_plain_ones(tmp_path: Path) -> None:
    hidden = [
        word for name in ("SSUBSCRIBE", "SPUBLISH") for word in ("--rename-command", name, "")
    ]

    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        assert await one.bus._link.offers_sharded("any") is False
        await reaches(two, one, 1)

    on_two_nodes(tmp_path, scenario, hidden)


def test_sharded_topics_are_used_where_they_are_offered(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, one: Hearer, two: Hearer) -> None:
        link = open_link(server.url)
        topics = await link.client.execute_command("PUBSUB SHARDCHANNELS")
        await link.close()

        assert topics == [b"angarium:bus:0"]

    on_two_nodes(tmp_path, scenario)


def test_refused_credentials_stop_the_start_and_are_not_quoted(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, "--requirepass", "right") as server:
            address = server.url.removeprefix("redis://")
            with pytest.raises(Misconfigured) as caught:
                await Hearer(f"redis://:wrongsecret@{address}").__aenter__()
            assert "wrongsecret" not in str(caught.value)
            async with Hearer(f"redis://:right@{address}") as one:
                assert one.bus.hears

    asyncio.run(work())


def test_a_unix_socket_carries_the_bus(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "redis.sock"
        async with (
            served(tmp_path, "--unixsocket", str(path)),
            Hearer(f"unix://{path}") as one,
            Hearer(f"unix://{path}?db=0") as two,
        ):
            await reaches(one, two, 1)

    asyncio.run(work())
