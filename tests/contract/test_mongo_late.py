"""A write that nobody heard of any more lands after a newer one: it changes nothing."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.clock import ManualClock
from angarium.errors import Fenced, LeaseTaken, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.storage.contract import (
    Delivery,
    DropRecord,
    PutDelivery,
    PutRecord,
    PutTurn,
    Record,
    Turn,
    Write,
)
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.leases import MongoLeases
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.vault import MongoVault

from .late import LatePost, as_single_server

TURN = Turn(ConversationId("c"), 1, DeviceId("AGENT"), "running", b"old")
DELIVERY = Delivery("d", "twilio", UserId("@c:x"), 1, "pending", b"old")
NEWER: dict[str, tuple[list[Write], Write, Write]] = {
    "a record": (
        [PutRecord("s", "k", b"first")],
        PutRecord("s", "k", b"old"),
        PutRecord("s", "k", b"new"),
    ),
    "a revision": (
        [PutRecord("s", "k", b"first")],
        PutRecord("s", "k", b"old", 1),
        PutRecord("s", "k", b"new", 1),
    ),
    "a new record": ([], PutRecord("s", "k", b"old"), PutRecord("s", "k", b"new", 0)),
    "a dropped record": (
        [PutRecord("s", "k", b"first")],
        PutRecord("s", "k", b"old"),
        DropRecord("s", "k"),
    ),
    "a record made and dropped": ([], PutRecord("s", "k", b"old"), DropRecord("s", "k")),
    "a drop": (
        [PutRecord("s", "k", b"first")],
        DropRecord("s", "k"),
        PutRecord("s", "k", b"new"),
    ),
    "a turn": (
        [PutTurn(TURN)],
        PutTurn(TURN),
        PutTurn(replace(TURN, state="replied", body=b"new")),
    ),
    "a new turn": ([], PutTurn(TURN), PutTurn(replace(TURN, body=b"new"))),
    "a delivery": (
        [PutDelivery(DELIVERY)],
        PutDelivery(DELIVERY),
        PutDelivery(replace(DELIVERY, state="sent", body=b"new")),
    ),
}
EXPECTED_RECORDS = {
    "a record": [Record("s", "k", 2, b"new")],
    "a revision": [Record("s", "k", 2, b"new")],
    "a new record": [Record("s", "k", 1, b"new")],
    "a drop": [Record("s", "k", 2, b"new")],
}
Scenario = Callable[[LatePost, Link, Any], Awaitable[None]]


@pytest.fixture
def with_late_post(mongo_uri: str, fresh_mongo: Any) -> Callable[[Scenario], None]:
    """Runs a scenario over a fresh store and a link whose requests may come late."""

    @asynccontextmanager
    async def linked(opened: Any, post: LatePost) -> AsyncIterator[Link]:
        link = Link(post.uri, opened._link.name)
        try:
            yield link
        finally:
            await link.close()

    async def run(scenario: Scenario) -> None:
        place = await as_single_server(mongo_uri)
        if place is None:
            assert "MONGODB_URI" in os.environ
            pytest.skip("MONGODB_URI names several servers; the proxy stands before one")
        opened = await fresh_mongo(mongo_uri, ManualClock())
        try:
            async with LatePost(place) as post, linked(opened, post) as link:
                await scenario(post, link, opened)
        finally:
            await opened.close()

    return lambda scenario: asyncio.run(run(scenario))


async def give_up(post: LatePost, link: Link, command: str, work: Awaitable[Any]) -> None:
    """Start the work and give up waiting for its answer; its requests are under way."""
    usual_s, link.call_s = link.call_s, 0.3
    post.hold(command)
    with pytest.raises(Unavailable):
        await work
    post.marker = b""
    assert post.caught.is_set()
    link.call_s = usual_s


async def write_late(
    post: LatePost, link: Link, opened: Any, kind: str, guards: Guards
) -> bool:
    """Whether the newer write stands after the older one has landed."""
    before, older, newer = NEWER[kind]
    vault = MongoVault(link, guards)
    for write in before:
        await vault.write([write])
    await give_up(post, link, "update", vault.write([older]))
    await vault.write([newer])
    assert await post.deliver() >= 1
    if "turn" in kind:
        return bool((await opened.store.turns.find("c", 1)).body == b"new")
    if "delivery" in kind:
        return bool((await opened.store.outbox.find("d")).body == b"new")
    return bool(await opened.store.vault.read("s") == EXPECTED_RECORDS.get(kind, []))


@pytest.mark.parametrize("kind", NEWER)
def test_a_write_that_lands_late_does_not_undo_a_newer_one(
    with_late_post: Any, kind: str
) -> None:
    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        assert await write_late(post, link, opened, kind, ALL_GUARDS)

    with_late_post(scenario)


@pytest.mark.parametrize("kind", ["a record", "a turn", "a delivery"])
def test_without_its_guard_a_late_write_undoes_a_newer_one(
    with_late_post: Any, kind: str
) -> None:
    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        off = replace(ALL_GUARDS, late_writes=False)
        assert not await write_late(post, link, opened, kind, off)

    with_late_post(scenario)


async def lease_after_late_release(
    post: LatePost, link: Link, opened: Any, guards: Guards
) -> bool:
    leases = MongoLeases(link, guards)
    fence = await leases.acquire("l", "a", 10, 0)
    await give_up(post, link, "update", leases.release(fence, "a"))
    await leases.acquire("l", "a", 10, 5_000)
    await post.deliver()
    try:
        await opened.store.leases.acquire("l", "b", 10, 14_999)
    except LeaseTaken:
        return True
    return False


def test_a_release_that_lands_late_does_not_free_a_lease_taken_again(
    with_late_post: Any,
) -> None:
    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        assert await lease_after_late_release(post, link, opened, ALL_GUARDS)

    with_late_post(scenario)


def test_without_its_guard_a_late_release_frees_a_lease_taken_again(
    with_late_post: Any,
) -> None:
    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        off = replace(ALL_GUARDS, late_writes=False)
        assert not await lease_after_late_release(post, link, opened, off)

    with_late_post(scenario)


def test_a_renewal_that_lands_late_does_not_shorten_a_lease(with_late_post: Any) -> None:
    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        leases = MongoLeases(link)
        fence = await leases.acquire("l", "a", 10, 0)
        await give_up(post, link, "update", leases.renew(fence, "a", 10, 3_000))
        await leases.renew(fence, "a", 10, 6_000)
        await post.deliver()
        with pytest.raises(LeaseTaken):
            await opened.store.leases.acquire("l", "b", 10, 15_999)
        assert (await opened.store.leases.acquire("l", "b", 10, 16_000)).epoch == 2

    with_late_post(scenario)


def test_an_acquisition_that_lands_late_takes_nothing_from_a_newer_owner(
    with_late_post: Any,
) -> None:
    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        leases, theirs = MongoLeases(link), opened.store.leases
        await leases.release(await leases.acquire("l", "a", 10, 0), "a")
        await give_up(post, link, "update", leases.acquire("l", "a", 10, 1_000))
        fence = await theirs.acquire("l", "b", 10, 1_000)
        await post.deliver()
        await theirs.renew(fence, "b", 10, 2_000)

    with_late_post(scenario)


def test_a_write_that_a_newer_owner_did_not_see_is_not_acknowledged(
    with_late_post: Any,
) -> None:
    """The newer owner reads, then the old one's write arrives: both would use one key."""

    async def scenario(post: LatePost, link: Link, opened: Any) -> None:
        old = await opened.store.leases.acquire("l", "a", 10, 0)
        vault = MongoVault(link)
        await vault.write([PutRecord("s", "ratchet", b"0")], old)
        post.hold("update")
        writing = asyncio.create_task(vault.write([PutRecord("s", "ratchet", b"old")], old))
        await post.caught.wait()
        await opened.store.leases.acquire("l", "b", 10, 10_000)
        (seen,) = await opened.store.vault.read("s")
        assert seen.blob == b"0"
        await post.deliver()
        with pytest.raises(Fenced):
            await writing

    with_late_post(scenario)
