"""What one owner may keep over MongoDB, when a node dies while it begins an upload."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.clock import ManualClock
from angarium.errors import Refused
from angarium.ids import ConversationId, UserId
from angarium.limits import BLOBS_OPEN_PER_USER_MAX, MONGO_RESERVED_S
from angarium.storage.contract import Blob
from angarium.storage.mongo.room import Room

OWNER = UserId("@alice:x")
LAPSED_MS = round(MONGO_RESERVED_S * 1000)
BLOB = Blob("b", OWNER, ConversationId("c"), 10, 1, (), False, 0, 10 * LAPSED_MS)
MAX = BLOBS_OPEN_PER_USER_MAX


@pytest.fixture
def with_mongo(mongo_uri: str, fresh_mongo: Any) -> Callable[..., None]:
    async def run(scenario: Any) -> None:
        opened = await fresh_mongo(mongo_uri, ManualClock())
        try:
            await scenario(opened)
        finally:
            await opened.close()

    return lambda scenario: asyncio.run(run(scenario))


def named(number: int, created_ms: int = 0) -> Blob:
    return replace(BLOB, id=f"b-{number}", created_ms=created_ms)


async def ledger(opened: Any) -> list[Any]:
    found = await opened._link.find("blob_owners", {"_id": OWNER})
    return list(found["reserved"])


def test_an_upload_whose_node_died_before_it_was_stored_counts_until_it_lapses(
    with_mongo: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs
        for number in range(MAX - 1):
            await blobs.open(named(number))
        assert await ledger(opened) == []
        await Room(opened._link).reserve(named(900))  # And then the node was gone.
        with pytest.raises(Refused):
            await blobs.open(named(901))
        await blobs.open(named(900))  # The client tries again: its own place is its own.
        with pytest.raises(Refused):
            await blobs.open(named(901, LAPSED_MS))
        await blobs.drop("b-900")
        await blobs.open(named(901, LAPSED_MS))
        assert await ledger(opened) == []

    with_mongo(scenario)


def test_a_reservation_that_nobody_settles_lapses(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs
        for number in range(MAX):
            await Room(opened._link).reserve(named(number))
        with pytest.raises(Refused):
            await blobs.open(named(901, LAPSED_MS - 1))
        await blobs.open(named(901, LAPSED_MS))
        assert await ledger(opened) == []

    with_mongo(scenario)


def test_an_upload_that_was_stored_but_never_settled_counts_once(with_mongo: Any) -> None:
    class Dying(Room):
        async def settle(self, owner: UserId, reservation: Any) -> None:
            raise asyncio.CancelledError

    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs
        dying = replace(blobs, room=Dying(opened._link))
        with pytest.raises(asyncio.CancelledError):
            await dying.open(named(0))
        for number in range(1, MAX):
            await blobs.open(named(number))
        with pytest.raises(Refused):
            await blobs.open(named(901))
        await blobs.put_chunk("b-0", 0, b"0123456789")
        await blobs.open(named(902))

    with_mongo(scenario)


def test_two_nodes_that_count_at_once_never_hand_out_the_same_last_place(
    with_mongo: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        for number in range(MAX - 1):
            await opened.store.blobs.open(named(number))
        counted, go_on = asyncio.Event(), asyncio.Event()

        class Paused(Room):
            async def _check(self, blob: Blob, reserved: list[Any]) -> None:
                await Room._check(self, blob, reserved)
                counted.set()
                await go_on.wait()

        slow = asyncio.create_task(Paused(opened._link).reserve(named(900)))
        await counted.wait()
        await opened.store.blobs.open(named(901))
        go_on.set()
        with pytest.raises(Refused):
            await slow

    with_mongo(scenario)
