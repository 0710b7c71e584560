"""Each guard matters: without it the same scenario does the damage it prevents."""

import asyncio
from dataclasses import fields

import pytest

from angarium.clock import ManualClock
from angarium.config import Settings
from angarium.errors import Fenced
from angarium.model.conversation import Participant
from angarium.model.message import Accepted, NewMessage
from angarium.storage.contract import PutRecord
from angarium.storage.sqlite.guards import Guards
from angarium.storage.sqlite.store import SqliteStore, open_sqlite


def message(cs: int, device: str = "DEVICE01", key: str | None = None) -> NewMessage:
    return NewMessage("c", "@a:x", device, key or f"k{cs}", cs, "m", {"D": b"x"}, 0)


async def open_two(guards: Guards) -> tuple[SqliteStore, SqliteStore]:
    first = await open_sqlite(None, ManualClock(), inline=True, guards=guards)
    await first.store.conversations.create("c", [Participant("@a:x", "person")], 0)
    return first, await first.second()


async def sequences_of_two_nodes(guards: Guards) -> list[int]:
    first, second = await open_two(guards)
    for cs in range(1, 4):
        await first.store.log.append([message(cs)])
        await second.store.log.append([message(cs, "DEVICE02")])
    read = await first.store.log.read("c", "D", 1, 99, 99)
    return [entry.sequence for entry in read]


async def counters_of_late_messages(guards: Guards) -> list[int]:
    first, _ = await open_two(guards)
    for cs in (2, 1, 3):
        await first.store.log.append([message(cs)])
    return [entry.cs for entry in await first.store.log.read("c", "D", 1, 99, 99)]


async def copies_of_a_retried_message(guards: Guards) -> int:
    first, second = await open_two(guards)
    for store in (first, second, first):
        await store.store.log.append([message(1)])
    return len(await first.store.log.read("c", "D", 1, 99, 99))


async def zombie_writes(guards: Guards) -> bool:
    first, second = await open_two(guards)
    old = await first.store.leases.acquire("l", "a", 1, 0)
    await second.store.leases.acquire("l", "b", 1, 5000)
    try:
        await first.store.vault.write([PutRecord("s", "k", b"")], old)
    except Fenced:
        return False
    return True


def test_unique_sequences_keep_two_nodes_from_using_one_place_twice() -> None:
    assert asyncio.run(sequences_of_two_nodes(Guards())) == [1, 2, 3, 4, 5, 6]
    broken = asyncio.run(sequences_of_two_nodes(Guards(unique_sequence=False)))
    assert len(set(broken)) < len(broken)


def test_the_predecessor_check_keeps_a_devices_order() -> None:
    assert asyncio.run(counters_of_late_messages(Guards())) == [1]
    assert asyncio.run(counters_of_late_messages(Guards(predecessor=False))) == [2, 1, 3]


def test_unique_keys_keep_a_retry_from_being_stored_twice() -> None:
    assert asyncio.run(copies_of_a_retried_message(Guards())) == 1
    assert asyncio.run(copies_of_a_retried_message(Guards(unique_key=False))) == 3


def test_fencing_keeps_an_outdated_owner_from_writing() -> None:
    assert not asyncio.run(zombie_writes(Guards()))
    assert asyncio.run(zombie_writes(Guards(fencing=False)))


@pytest.mark.parametrize("name", [field.name for field in fields(Guards)])
def test_a_guard_is_on_unless_a_test_says_otherwise(name: str) -> None:
    assert getattr(Guards(), name) is True
    assert name not in Settings.model_fields
    assert not any("guard" in field for field in Settings.model_fields)


def test_stores_of_one_memory_see_each_other_and_live_until_the_last_is_closed() -> None:
    async def scenario() -> None:
        first, second = await open_two(Guards())
        await first.close()
        (result,) = await second.store.log.append([message(1)])
        assert isinstance(result, Accepted)
        await second.close()

    asyncio.run(scenario())
