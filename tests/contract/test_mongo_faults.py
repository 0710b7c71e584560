"""What the shared suite cannot ask: lost answers, new primaries, torn steps, zombies."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from pymongo.errors import OperationFailure

from angarium.clock import ManualClock
from angarium.errors import (
    Busy,
    Conflict,
    Fenced,
    Unavailable,
)
from angarium.limits import APPEND_QUEUE_MESSAGES
from angarium.model.conversation import Head, Participant
from angarium.model.message import Accepted, NewMessage, NotAccepted
from angarium.storage.contract import Delivery, PutDelivery, PutRecord, PutTurn, Record, Turn
from angarium.storage.mongo.store import open_mongo
from angarium.testing.mongo import MongoServer, find_server

from .late import run_and_collect

pytestmark = pytest.mark.slow

TURN: Any = Turn("c", 1, "AGENT", "offered", b"body")  # type: ignore[arg-type]
DELIVERY: Any = Delivery("d", "twilio", "@c:x", 1, "pending", b"body")  # type: ignore[arg-type]
Scenario = Callable[[Any], Awaitable[None]]


def message(cs: int, device: str = "DEVICE01", conversation: str = "c") -> Any:
    fields: Any = (conversation, "@a:x", device, f"{device}-{cs}", cs, "m", {"R": b"x"}, 0)
    return NewMessage(*fields)


async def converse(opened: Any, *names: str) -> None:
    person: Any = Participant("@a:x", "person")  # type: ignore[arg-type]
    for name in names or ("c",):
        await opened.store.conversations.create(name, [person], 0)


@pytest.fixture
def with_mongo(mongo_uri: str, fresh_mongo: Any) -> Callable[..., None]:
    """Runs a scenario over a fresh MongoStore."""

    async def run(scenario: Scenario, **options: Any) -> None:
        opened = await fresh_mongo(mongo_uri, ManualClock(), **options)
        try:
            await scenario(opened)
        finally:
            await heal(opened)
            await opened.close()

    return lambda scenario, **options: run_and_collect(run(scenario, **options))


async def fail(opened: Any, commands: list[str], times: int, **how: Any) -> None:
    """The next commands fail. Needs a server with test commands."""
    try:
        await opened._link.client.admin.command(
            "configureFailPoint", "failCommand", mode={"times": times},
            data={"failCommands": commands, **how},
        )  # fmt: skip
    except OperationFailure as error:
        if "MONGODB_URI" in os.environ:
            pytest.skip(f"the server at MONGODB_URI has no failpoints: {error}")
        raise


async def heal(opened: Any) -> None:
    try:
        await opened._link.client.admin.command("configureFailPoint", "failCommand", mode="off")
    except OperationFailure:
        return  # No failpoints, so none is set.


async def sequences(opened: Any) -> list[int]:
    read = await opened.store.log.read("c", "R", 1, 1000, 1000)
    return [entry.sequence for entry in read]


# --- append ---

FAULTS = {
    "connection lost": {"closeConnection": True},
    "stepped down": {"errorCode": 10107},
    "shutting down": {"errorCode": 91},
    "no majority": {
        "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}
    },
}


@pytest.mark.parametrize("how", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("size", [1, 3])
def test_an_append_without_an_answer_is_stored_once_and_is_no_duplicate(
    with_mongo: Any, how: dict[str, Any], size: int
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1)])
        await fail(opened, ["insert"], 2, **how)
        batch = [message(cs) for cs in range(2, 2 + size)]
        results = await opened.store.log.append(batch)
        assert [(r.sequence, r.duplicate) for r in results] == [
            (cs, False) for cs in range(2, 2 + size)
        ]
        assert await sequences(opened) == list(range(1, 2 + size))

    with_mongo(scenario)


def test_an_append_waits_for_its_head_and_says_so_when_that_fails(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await fail(opened, ["update"], 1000, errorCode=10107)
        opened._link.call_s = 0.3
        (result,) = await opened.store.log.append([message(1)])
        assert isinstance(result, NotAccepted)
        assert isinstance(result.error, Unavailable)
        await heal(opened)
        opened._link.call_s = 5.0
        assert (await opened.store.log.heads(["c"]))["c"] == Head(1, 0)
        (again,) = await opened.store.log.append([message(1)])
        assert (again.sequence, again.duplicate) == (1, True)
        assert (await opened.store.log.heads(["c"]))["c"] == Head(1, 1)

    with_mongo(scenario)


def test_a_message_whose_head_was_never_marked_is_counted_by_the_next_writer(
    with_mongo: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1), message(2)])
        await opened._link["conversations"].update_one({"_id": "c"}, {"$set": {"head": 1}})
        other = await opened.second()
        (result,) = await other.store.log.append([message(3)])
        assert result.sequence == 3
        assert (await other.store.log.heads(["c"]))["c"].sequence == 3
        await other.close()

    with_mongo(scenario)


@pytest.mark.cluster
def test_a_store_that_is_gone_is_unavailable_in_time_and_comes_back(tmp_path: Path) -> None:
    if find_server() is None:
        pytest.skip("this test kills its server: install SecantusDB")

    async def scenario(server: MongoServer) -> None:
        opened = await open_mongo(server.uri, ManualClock())
        await converse(opened)
        await opened.store.log.append([message(1)])
        opened._link.call_s = 0.4
        server.kill()
        started_s = asyncio.get_running_loop().time()
        calls: list[Awaitable[Any]] = [
            opened.store.log.heads(["c"]),  # type: ignore[list-item]
            opened.store.vault.write([PutRecord("s", "k", b"")]),
            opened.check(),
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        (result,) = await opened.store.log.append([message(2)])
        assert isinstance(result, NotAccepted)
        assert isinstance(result.error, Unavailable)
        assert asyncio.get_running_loop().time() - started_s < 3
        server.start()
        opened._link.call_s = 5.0
        results = [NotAccepted(Unavailable())]
        for _ in range(20):
            results = await opened.store.log.append([message(2)])  # type: ignore[assignment]
            if isinstance(results[0], Accepted):
                break
        assert [r.sequence for r in results if isinstance(r, Accepted)] == [2]
        await opened.check()
        await opened.close()

    server = MongoServer(tmp_path)
    try:
        run_and_collect(scenario(server))
    finally:
        server.close()


def test_what_waits_for_the_store_is_bounded(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        opened._appends.waiting = APPEND_QUEUE_MESSAGES
        with pytest.raises(Busy):
            await opened.store.log.append([message(1)])
        opened._appends.waiting = 0

    with_mongo(scenario)


def test_many_conversations_share_one_insert(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        names = [f"c{n}" for n in range(40)]
        await converse(opened, *names)
        before = opened.figures()["commits"]
        batch = [message(1, conversation=name) for name in names]
        results = await opened.store.log.append(batch)
        assert [r.sequence for r in results] == [1] * 40
        assert opened.figures()["commits"] == before + 1
        heads = await opened.store.log.heads(names)
        assert {head.sequence for head in heads.values()} == {1}

    with_mongo(scenario)


def test_a_store_that_closes_finishes_what_was_begun(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        node = await opened.second()
        sending = asyncio.create_task(node.store.log.append([message(1), message(2)]))
        await asyncio.sleep(0)
        await node.close()
        assert [r.sequence for r in await sending] == [1, 2]
        with pytest.raises(Unavailable):
            await node.store.log.append([message(3)])
        with pytest.raises(Unavailable):
            await node.store.log.heads(["c"])

    with_mongo(scenario)


# --- the vault ---


def test_a_repeated_write_of_a_record_counts_once(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        vault = opened.store.vault
        concern = {"code": 64, "errmsg": "waiting for replication timed out"}
        for put in (PutRecord("s", "k", b"1"), PutRecord("s", "k", b"2", 1),
                    PutRecord("s", "new", b"3", 0)):  # fmt: skip
            await fail(opened, ["update", "insert"], 1, writeConcernError=concern)
            await vault.write([put])
        assert await vault.read("s") == [
            Record("s", "k", 2, b"2"),
            Record("s", "new", 1, b"3"),
        ]

    with_mongo(scenario)


def test_a_conflict_in_the_middle_leaves_the_prefix_and_nothing_after_it(
    with_mongo: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        vault = opened.store.vault
        writes = [PutRecord("s", "a", b""), PutRecord("s", "b", b"", 3), PutTurn(TURN)]
        with pytest.raises(Conflict):
            await vault.write(writes)
        assert [record.key for record in await vault.read("s")] == ["a"]
        assert await opened.store.turns.find("c", 1) is None

    with_mongo(scenario)


@pytest.mark.parametrize(
    "write",
    [PutRecord("s", "k", b"late"), PutRecord("s", "k", b"late", 1), PutTurn(TURN),
     PutDelivery(DELIVERY)],
    ids=["record", "revision", "turn", "delivery"],
)  # fmt: skip
def test_a_zombie_past_the_check_changes_nothing_the_new_owner_has_written(
    with_mongo: Any, write: Any
) -> None:
    async def scenario(opened: Any) -> None:
        old = await opened.store.leases.acquire("l", "a", 10, 0)
        new = await opened.store.leases.acquire("l", "b", 10, 10_000)
        mine = [
            PutRecord("s", "k", b"new"),
            PutTurn(replace(TURN, state="replied")),
            PutDelivery(replace(DELIVERY, state="sent")),
        ]
        await opened.store.vault.write(mine, new)

        vault = opened.store.vault
        with pytest.raises(Fenced):
            await _write_unchecked(vault, [write], old)
        assert await vault.read("s") == [Record("s", "k", 1, b"new")]
        assert (await opened.store.turns.find("c", 1)).state == "replied"
        assert (await opened.store.outbox.find("d")).state == "sent"

    with_mongo(scenario)


async def _write_unchecked(vault: Any, writes: list[Any], fence: Any) -> None:
    """As an owner writes that was paused right after its lease was checked."""

    class Paused(type(vault)):  # type: ignore[misc]
        async def _check(self, fence: Any) -> None:
            return

    await Paused(vault.link).write(writes, fence)


def test_a_lease_whose_answer_was_lost_is_held_with_one_epoch(with_mongo: Any) -> None:
    async def scenario(opened: Any) -> None:
        leases = opened.store.leases
        await leases.acquire("l", "a", 10, 0)
        concern = {"code": 64, "errmsg": "waiting for replication timed out"}
        await fail(opened, ["update", "findAndModify"], 1, writeConcernError=concern)
        assert (await leases.acquire("l", "b", 10, 10_000)).epoch == 2

    with_mongo(scenario)


# --- under fire ---


def test_three_nodes_under_faults_leave_one_dense_log_and_every_retry_its_first_answer(
    with_mongo: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        nodes = [opened, await opened.second(), await opened.second()]
        dice = random.Random(11)
        seen: dict[tuple[str, int], int] = {}

        async def send(device: str) -> None:
            for first in range(1, 25, 4):
                batch = [message(cs, device) for cs in range(first, first + 4)]
                accepted = 0
                while accepted < 4 or dice.random() < 0.3:
                    results = await dice.choice(nodes).store.log.append(batch)
                    accepted = 0
                    for sent, result in zip(batch, results, strict=True):
                        if isinstance(result, Accepted):
                            accepted += 1
                            place = (device, sent.cs)
                            assert seen.setdefault(place, result.sequence) == result.sequence

        async def disturb() -> None:
            concern = {"code": 64, "errmsg": "waiting for replication timed out"}
            for _ in range(12):
                how: dict[str, Any] = dice.choice(
                    [
                        {"closeConnection": True},
                        {"errorCode": 112},
                        {"writeConcernError": concern},
                    ]
                )
                await fail(
                    opened, [dice.choice(["insert", "update"])], dice.randint(1, 3), **how
                )
                await asyncio.sleep(0.02)

        devices = [f"DEVICE{n:02}" for n in range(8)]
        await asyncio.gather(disturb(), *(send(device) for device in devices))
        assert sorted(seen.values()) == list(range(1, 8 * 24 + 1))
        read = await nodes[1].store.log.read("c", "R", 1, 1000, 1000)
        assert [entry.sequence for entry in read] == list(range(1, 8 * 24 + 1))
        for device in devices:
            own = [(e.cs, e.sequence) for e in read if e.device == device]
            assert own == [(cs, seen[device, cs]) for cs in range(1, 25)]
        assert (await nodes[2].store.log.heads(["c"]))["c"].sequence == 8 * 24
        for node in nodes[1:]:
            await node.close()

    with_mongo(scenario)


def test_twenty_senders_over_three_nodes_all_come_through_in_one_conversation(
    with_mongo: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        nodes = [opened, await opened.second(), await opened.second()]

        async def send(device: str, node: Any) -> None:
            for cs in range(1, 9):
                (result,) = await node.store.log.append([message(cs, device)])
                assert isinstance(result, Accepted), result

        devices = [f"DEVICE{n:02}" for n in range(20)]
        await asyncio.gather(*(send(device, nodes[n % 3]) for n, device in enumerate(devices)))
        read = await opened.store.log.read("c", "R", 1, 1000, 1000)
        assert [entry.sequence for entry in read] == list(range(1, 161))
        for device in devices:
            assert [e.cs for e in read if e.device == device] == list(range(1, 9))
        for node in nodes[1:]:
            await node.close()

    with_mongo(scenario)


@pytest.mark.cluster
def test_what_was_acknowledged_outlives_a_crash_of_the_server(tmp_path: Path) -> None:
    if find_server() is None:
        pytest.skip("this test kills its server: install SecantusDB")

    async def scenario(server: MongoServer) -> None:
        opened = await open_mongo(server.uri, ManualClock())
        await converse(opened)
        acknowledged: dict[tuple[str, int], int] = {}
        enough, stopping = asyncio.Event(), asyncio.Event()

        async def send(device: str) -> None:
            cs = 1
            while not stopping.is_set():
                (result,) = await opened.store.log.append([message(cs, device)])
                if isinstance(result, Accepted):
                    acknowledged[device, cs] = result.sequence
                    cs += 1
                if len(acknowledged) >= 40:
                    enough.set()

        tasks = [asyncio.create_task(send(f"DEVICE{n:02}")) for n in range(6)]
        await asyncio.wait_for(enough.wait(), 60)
        opened._link.call_s = 0.5
        server.kill()
        stopping.set()
        await asyncio.gather(*tasks)
        await opened.close()
        server.start()
        again: Any = await open_mongo(server.uri, ManualClock())
        read = await again.store.log.read("c", "R", 1, 1000, 1000)
        assert [entry.sequence for entry in read] == list(range(1, len(read) + 1))
        stored = {(entry.device, entry.cs): entry.sequence for entry in read}
        assert acknowledged.items() <= stored.items()
        head = (await again.store.log.heads(["c"]))["c"].sequence
        assert head >= max(acknowledged.values())
        await again.close()

    server = MongoServer(tmp_path)
    try:
        run_and_collect(scenario(server))
    finally:
        server.close()
