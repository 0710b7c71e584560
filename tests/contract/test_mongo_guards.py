"""Each guard of the MongoDB store is taken away in turn: then the damage must be seen."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.clock import ManualClock
from angarium.errors import Fenced
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.model.conversation import Participant
from angarium.model.message import Accepted, NewMessage
from angarium.storage.contract import PutRecord
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.store import open_mongo
from angarium.testing.mongo import MongoServer, find_server

from .late import run_and_collect

C = ConversationId("c")


def message(cs: int, device: str = "DEVICE01", key: str = "") -> NewMessage:
    name = MessageKey(key or f"{device}-{cs}")
    return NewMessage(
        C, UserId("@a:x"), DeviceId(device), name, cs, "m", {DeviceId("R"): b"x"}, 0
    )


async def damage_of(opened: Any) -> str:
    """What is wrong with the log: the invariants I1, I2 and I5, as a reader sees them."""
    read = await opened.store.log.read(C, "R", 1, 1000, 1000)
    if [entry.sequence for entry in read] != list(range(1, len(read) + 1)):
        return "the sequences are not dense"
    places = [(entry.device, entry.key) for entry in read]
    if len(set(places)) < len(places):
        return "a message is stored twice"
    for device in {entry.device for entry in read}:
        counters = [entry.cs for entry in read if entry.device == device]
        if counters != list(range(1, len(counters) + 1)):
            return "a device's messages are not in its order"
    return ""


# Two nodes: each scenario leaves a damage that its guard keeps out.


async def two_nodes_take_one_sequence(first: Any, second: Any) -> str:
    await second.store.log.append([message(1, "DEVICE02")])
    await first.store.log.append([message(1)])
    await second.store.log.append([message(2, "DEVICE02")])
    return await damage_of(first)


async def a_key_comes_back_under_another_counter(first: Any, second: Any) -> str:
    await first.store.log.append([message(1, key="same")])
    await first.store.log.append([message(2, key="same")])
    return await damage_of(second)


async def a_counter_comes_back_on_a_node_that_looked_away(first: Any, second: Any) -> str:
    await first.store.log.append([message(1)])
    await second.store.log.append([message(2)])
    await first.store.log.purge(C, 0)  # It learns of the newer head, not of its sender.
    await first.store.log.append([message(2, key="other")])
    return await damage_of(first)


async def a_message_comes_before_its_predecessor(first: Any, second: Any) -> str:
    await first.store.log.append([message(1)])
    await second.store.log.append([message(3)])
    return await damage_of(first)


async def a_former_owner_writes(first: Any, second: Any) -> str:
    old = await first.store.leases.acquire("l", "a", 10, 0)
    await second.store.leases.acquire("l", "b", 10, 10_000)
    try:
        await first.store.vault.write([PutRecord("s", "k", b"old")], old)
    except Fenced:
        return ""
    return "a former owner has written"


Damage = Callable[[Any, Any], Awaitable[str]]
SCENARIOS: dict[str, Damage] = {
    "unique_sequence": two_nodes_take_one_sequence,
    "unique_key": a_key_comes_back_under_another_counter,
    "unique_counter": a_counter_comes_back_on_a_node_that_looked_away,
    "predecessor": a_message_comes_before_its_predecessor,
    "fencing": a_former_owner_writes,
}


@pytest.fixture
def damage(mongo_uri: str, fresh_mongo: Any) -> Callable[[Damage, Guards], str]:
    """Runs a scenario over two nodes of a fresh store; returns the damage that is seen."""

    async def run(scenario: Damage, guards: Guards) -> str:
        first = await fresh_mongo(mongo_uri, ManualClock(), guards=guards)
        second = await first.second()
        try:
            person = Participant(UserId("@a:x"), "person")
            await first.store.conversations.create(C, [person], 0)
            for node in (first, second):
                await node.store.log.read(C, DeviceId("R"), 1, 1, 1)
            return await scenario(first, second)
        finally:
            await second.close()
            await first.close()

    return lambda scenario, guards: asyncio.run(run(scenario, guards))


@pytest.mark.parametrize("guard", SCENARIOS)
def test_with_its_guards_the_store_shows_no_damage(damage: Any, guard: str) -> None:
    assert damage(SCENARIOS[guard], ALL_GUARDS) == ""


@pytest.mark.parametrize("guard", SCENARIOS)
def test_without_this_guard_the_damage_is_seen(damage: Any, guard: str) -> None:
    assert damage(SCENARIOS[guard], replace(ALL_GUARDS, **{guard: False})) != ""


# --- the majority ---


def test_every_call_asks_for_a_majority_and_its_journal(mongo_uri: str) -> None:
    async def scenario() -> None:
        opened = await open_mongo(mongo_uri, ManualClock())
        try:
            for collection in (opened._link.database, opened._link["messages"]):
                assert collection.write_concern.document == {"w": "majority", "j": True}
                assert collection.read_concern.document == {"level": "majority"}
        finally:
            await opened.close()

    asyncio.run(scenario())


@pytest.mark.cluster
@pytest.mark.parametrize("majority", [True, False], ids=["with", "without"])
def test_only_with_its_majority_the_store_keeps_what_it_acknowledged(
    tmp_path: Path, majority: bool
) -> None:
    """The server is killed at once after an answer, several times."""
    if find_server() is None:
        pytest.skip("this test kills its server: install SecantusDB")
    guards = replace(ALL_GUARDS, majority=majority)

    async def lost_by_a_crash(server: MongoServer, name: str, lost: list[int]) -> None:
        opened = await open_mongo(server.uri, ManualClock(), database=name, guards=guards)
        person = Participant(UserId("@a:x"), "person")
        await opened.store.conversations.create(C, [person], 0)
        batches = [[message(n * 8 + k) for k in range(1, 9)] for n in range(40)]
        acknowledged = 0
        for batch in batches:
            results = await opened.store.log.append(batch)
            acknowledged += sum(isinstance(result, Accepted) for result in results)
        server.kill()
        await opened.close()
        server.start()
        again = await open_mongo(server.uri, ManualClock(), database=name)
        read = await again.store.log.read(C, DeviceId("R"), 1, 10_000, 10_000)
        await again.close()
        lost.append(acknowledged - len(read))

    server = MongoServer(tmp_path)
    try:
        lost: list[int] = []
        for number in range(3):
            run_and_collect(lost_by_a_crash(server, f"t{number}", lost))
    finally:
        server.close()
    assert (sum(lost) == 0) is majority
