"""One suite for presence between nodes; then what only Redis can lose."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from angarium.bus.presence import LocalPresence, Presence
from angarium.bus.redis_link import open_link
from angarium.bus.redis_presence import RedisPresence
from angarium.clock import SystemClock
from angarium.errors import Unavailable
from angarium.ids import UserId
from angarium.limits import PRESENCE_USERS_AT_ONCE, SOFT_WAIT_S
from angarium.testing.redis_server import RedisServer

from .buses import ANN, need_redis, served

BOB = UserId("@bob:test")
LEASE_S = 0.15


@dataclass
class Nodes:
    a: Presence
    b: Presence
    c: Presence


Scenario = Callable[[Nodes], Awaitable[None]]
WithNodes = Callable[[Scenario], None]


class OnRedis:
    """Three nodes on one server; `live` are those whose lease runs."""

    def __init__(self, url: str) -> None:
        self.links = [open_link(url, wait_s=1.0) for _ in "abc"]
        self.live = set("abc")
        self.namespace = f"test-{os.urandom(4).hex()}"
        self.presences = [self.node(n) for n in range(3)]
        self.a, self.b, self.c = self.presences

    def node(self, n: int) -> RedisPresence:
        return RedisPresence(
            self.links[n], "abc"[n], SystemClock(), self.nodes,
            namespace=self.namespace, lease_s=LEASE_S,
        )  # fmt: skip

    async def nodes(self) -> set[str]:
        return set(self.live)

    async def remembers(self) -> None:
        """Until the server has been told of everybody."""
        async with asyncio.timeout(20):
            while True:
                try:
                    for each in self.presences:
                        await each.renew()
                    await self.a.elsewhere([])
                    return
                except Unavailable:
                    await asyncio.sleep(0.05)

    async def __aenter__(self) -> "OnRedis":
        await self.remembers()
        return self

    async def __aexit__(self, *ended: object) -> None:
        for link in self.links:
            await link.close()


@pytest.fixture(params=["local", "redis"])
def with_nodes(request: pytest.FixtureRequest, tmp_path: Path) -> WithNodes:
    async def run(scenario: Scenario) -> None:
        if request.param == "local":
            table: dict[str, set[UserId]] = {}
            await scenario(Nodes(*(LocalPresence(name, table) for name in "abc")))
        else:
            async with served(tmp_path) as server, OnRedis(server.url) as three:
                await scenario(Nodes(*three.presences))

    if request.param == "redis":
        need_redis()
    return lambda scenario: asyncio.run(run(scenario))


def test_a_node_sees_who_is_on_others_and_not_its_own(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        nodes.a.came(ANN)
        nodes.b.came(BOB)
        assert await nodes.a.elsewhere([ANN, BOB]) <= {BOB}
        assert await nodes.b.elsewhere([ANN, BOB]) == {ANN}
        assert await nodes.c.elsewhere([ANN, BOB]) == {ANN, BOB}
        assert await nodes.c.elsewhere([BOB]) == {BOB}
        assert await nodes.c.elsewhere([]) == set()

    with_nodes(scenario)


def test_who_left_one_node_is_still_on_the_other(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        nodes.a.came(ANN)
        nodes.b.came(ANN)
        await nodes.a.renew()
        await nodes.b.renew()
        nodes.a.went(ANN)
        assert await nodes.a.elsewhere([ANN]) == {ANN}
        assert await nodes.b.elsewhere([ANN]) == set()
        nodes.b.went(ANN)
        assert await nodes.b.elsewhere([ANN]) == set()
        assert await nodes.c.elsewhere([ANN]) == set()

    with_nodes(scenario)


def test_of_two_nodes_that_tell_and_ask_at_once_one_sees_the_other(
    with_nodes: WithNodes,
) -> None:
    async def scenario(nodes: Nodes) -> None:
        for n in range(20):
            user = UserId(f"@user{n}:test")
            nodes.a.came(user)
            nodes.b.came(user)
            answers = await asyncio.gather(nodes.a.elsewhere([user]), nodes.b.elsewhere([user]))
            assert {user} in answers

    with_nodes(scenario)


def test_many_at_once_are_answered_each_for_itself(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        users = [UserId(f"@user{n}:test") for n in range(2 * PRESENCE_USERS_AT_ONCE + 7)]
        for user in users[::2]:
            nodes.a.came(user)
        await nodes.a.renew()
        answers = await asyncio.gather(*(nodes.b.elsewhere([user]) for user in users))

        assert answers == [{user} if n % 2 == 0 else set() for n, user in enumerate(users)]

    with_nodes(scenario)


def test_a_node_that_goes_takes_its_users_along(with_nodes: WithNodes) -> None:
    async def scenario(nodes: Nodes) -> None:
        nodes.a.came(ANN)
        await nodes.a.renew()
        assert await nodes.b.elsewhere([ANN]) == {ANN}
        await nodes.a.release()

        assert await nodes.b.elsewhere([ANN]) == set()

    with_nodes(scenario)


# --- what only Redis can lose ----------------------------------------------------------------

RedisScenario = Callable[[RedisServer, OnRedis], Awaitable[None]]


def on_redis(folder: Path, scenario: RedisScenario) -> None:
    async def work() -> None:
        async with served(folder) as server, OnRedis(server.url) as three:
            await scenario(server, three)

    asyncio.run(work())


def test_users_of_a_node_without_a_lease_are_nowhere(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, three: OnRedis) -> None:
        three.a.came(ANN)
        await three.a.renew()
        assert await three.b.elsewhere([ANN]) == {ANN}
        three.live.remove("a")

        assert await three.b.elsewhere([ANN]) == set()

    on_redis(tmp_path, scenario)


def test_after_flushall_nobody_is_said_to_be_gone_and_everybody_is_told_again(
    tmp_path: Path,
) -> None:
    async def scenario(server: RedisServer, three: OnRedis) -> None:
        three.a.came(ANN)
        await three.a.renew()
        await three.links[0].client.flushall()
        with pytest.raises(Unavailable):
            await three.b.elsewhere([ANN])
        await three.remembers()

        assert await three.b.elsewhere([ANN]) == {ANN}

    on_redis(tmp_path, scenario)


def test_without_redis_asking_is_unavailable_in_time_and_works_afterwards(
    tmp_path: Path,
) -> None:
    async def scenario(server: RedisServer, three: OnRedis) -> None:
        loop = asyncio.get_running_loop()
        server.pause()
        began_s = loop.time()
        three.a.came(ANN)
        asked = [three.a.elsewhere([ANN, BOB]) for _ in range(50)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(each) for each in answers} == {Unavailable}
        assert loop.time() - began_s < 2
        server.resume()
        await three.remembers()
        assert await three.b.elsewhere([ANN]) == {ANN}
        server.kill()
        three.a.went(ANN)
        with pytest.raises(Unavailable):
            await three.a.elsewhere([ANN])
        await server.start()
        await three.remembers()

        assert await three.b.elsewhere([ANN]) == set()

    on_redis(tmp_path, scenario)


def test_what_is_said_while_redis_is_left_alone_is_told_afterwards(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, three: OnRedis) -> None:
        loop = asyncio.get_running_loop()
        three.a.came(ANN)
        await three.a.renew()
        server.pause()
        with pytest.raises(Unavailable):
            await three.a.elsewhere([ANN])
        began_s = loop.time()
        three.a.came(BOB)
        with pytest.raises(Unavailable):
            await three.a.elsewhere([ANN])
        assert loop.time() - began_s < SOFT_WAIT_S / 2
        server.resume()
        await three.remembers()

        assert await three.b.elsewhere([ANN, BOB]) == {ANN, BOB}

    on_redis(tmp_path, scenario)


def test_a_former_process_of_the_same_name_leaves_nobody(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, three: OnRedis) -> None:
        three.a.came(ANN)
        await three.a.renew()
        await three.node(0).renew()

        assert await three.b.elsewhere([ANN]) == set()

    on_redis(tmp_path, scenario)


def test_who_asks_and_is_cancelled_does_not_take_the_others_along(tmp_path: Path) -> None:
    async def scenario(server: RedisServer, three: OnRedis) -> None:
        three.a.came(ANN)
        await three.a.renew()
        first = asyncio.create_task(three.b.elsewhere([ANN]))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(three.b.elsewhere([ANN])) for _ in range(5)]
        await first
        await asyncio.sleep(0)
        tasks[0].cancel()  # It asks for all five.
        answers = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [{ANN}] * 4

    on_redis(tmp_path, scenario)
