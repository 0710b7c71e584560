"""Which URLs are understood, and what is said of the others."""

import asyncio
import importlib
import sys

import pytest

from angarium.bus.redis_link import in_time, open_link
from angarium.errors import Misconfigured, Unavailable
from angarium.resilience import cancellable


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost", "localhost:6379", "", "redis+sentinel://:hunter2@localhost:26379",
        "redis+sentinel://:hunter2@/main", "redis+cluster://:hunter2@localhost/1",
        "redis+cluster://", "redis://:hunter2@localhost:port", "redis://:hunter2@h/0?db=x",
        "redis+sentinel://:hunter2@localhost/main/first",
        "redis+cluster://:hunter2@localhost?protocol=x",
    ],
)  # fmt: skip
def test_a_wrong_url_is_misconfigured_and_its_password_not_told(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        open_link(url)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_credentials_and_database_of_one_server_are_understood() -> None:
    named = open_link("redis://ann:p%40ss@example.test:7000/3").client.get_connection_kwargs()

    found = {key: named[key] for key in ("username", "password", "host", "port", "db")}
    assert found == {
        "username": "ann", "password": "p@ss", "host": "example.test", "port": 7000, "db": 3,
    }  # fmt: skip


def test_sentinels_and_the_name_of_the_primary_are_understood() -> None:
    link = open_link("redis+sentinel://ann:p%40ss@one:1,two/main/2?sentinel_password=s")
    pool = link.client.connection_pool
    sentinels = [each.get_connection_kwargs() for each in link._sentinel.sentinels]

    assert (pool.service_name, pool.connection_kwargs["db"]) == ("main", 2)
    assert pool.connection_kwargs["password"] == "p@ss"
    assert [(each["host"], each["port"]) for each in sentinels] == [("one", 1), ("two", 26379)]
    assert {each["password"] for each in sentinels} == {"s"}


def test_nodes_of_a_cluster_are_understood() -> None:
    link = open_link("rediss+cluster://:p@one:7000,two")
    nodes = link.client.nodes_manager.startup_nodes

    assert link.clustered
    assert sorted(nodes) == ["one:7000", "two:6379"]
    assert link.client.connection_kwargs["password"] == "p"


def test_without_the_redis_client_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "angarium.bus.redis_link")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    with pytest.raises(Misconfigured, match=r"angarium\[cluster\]"):
        importlib.import_module("angarium.bus.redis_link")


async def deaf(wait_s: float) -> str:
    """Loses a cancel, as `asyncio.wait_for` of Python 3.11 does when it comes as it ends."""
    try:
        await asyncio.sleep(wait_s)
    except asyncio.CancelledError:
        pass
    return "answer"


def test_a_task_that_is_told_to_end_ends_although_the_client_lost_the_cancel() -> None:
    async def scenario() -> None:
        async def work() -> None:
            while True:
                await cancellable(deaf(0.01))

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()

    asyncio.run(scenario())


def test_a_call_that_takes_too_long_is_unavailable_however_it_ends() -> None:
    async def scenario() -> None:
        for call in (deaf(10), asyncio.sleep(10)):
            with pytest.raises(Unavailable):
                await in_time(call, 0.01)
        assert await in_time(deaf(0.0), 1) == "answer"

    asyncio.run(scenario())
