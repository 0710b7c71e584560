"""A copy of a store, between any two adapters, is the same store."""

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from angarium.clock import ManualClock, SystemClock
from angarium.errors import (
    CopyDiffers,
    Fenced,
    StoreInUse,
    StoreNotEmpty,
    StoreUnwritable,
    Unavailable,
    UnfinishedCopy,
)
from angarium.ids import ConversationId
from angarium.limits import COMMAND_KEY_KEPT_S, COPY_LAPSING_S
from angarium.model.message import Accepted
from angarium.storage.contract import Fence, PutRecord, PutTurn, Turn
from angarium.storage.copying import compare, copy
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.rows import COLLECTIONS
from angarium.storage.mongo.schema import SHARD_KEYS
from angarium.storage.schema import MIGRATIONS
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.rows import TABLES
from angarium.storage.transfer import KINDS, Epoch, Page, Progress, Row, Step
from contract.everything import ADA, BLOB, GATEWAY, fill, message
from contract.places import Database, Ends, Folder, Place

EMPTY = ConversationId("empty")
Scenario = Callable[[Ends], Awaitable[None]]
OTHER_PAIRS = [("sqlite", "mongo"), ("mongo", "sqlite")]
PAIRS = [*OTHER_PAIRS, ("sqlite", "sqlite"), ("mongo", "mongo")]
all_pairs = pytest.mark.parametrize("between", PAIRS, indirect=True, ids="-to-".join)


def manual_clock() -> ManualClock:
    """Set to now: the server drops what is old by its own clock."""
    return ManualClock(SystemClock().now_ms())


@pytest.fixture(params=OTHER_PAIRS, ids="-to-".join)
def between(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario over a full store and an empty place; each adapter is each end once."""

    def place(kind: str) -> Place:
        if kind == "sqlite":
            return Folder(tmp_path)
        return Database(request.getfixturevalue("mongo_uri"))

    async def run(scenario: Scenario) -> None:
        ends = Ends(place(request.param[0]), place(request.param[1]), manual_clock())
        try:
            async with ends.opened(ends.source) as store:
                await fill(store, ends.clock)
            await scenario(ends)
        finally:
            await ends.source.remove()
            await ends.target.remove()

    return lambda scenario: asyncio.run(run(scenario))


async def contents(store: Any) -> dict[str, Any]:
    """What nodes see of the store that `fill` filled."""
    names = ["talk", "a second", "empty"]
    return {
        "heads": await store.log.heads(names),
        "messages": [await store.log.read(name, "BOB00001", 1, 99, 99) for name in names],
        "conversations": await store.conversations.list_of(ADA),
        "receipts": await store.receipts.list_of("talk"),
        "lists": await store.directory.lists([ADA, "@bob:x"]),
        "records": await store.vault.read("gateway"),
        "turns": await store.turns.list_recent(9),
        "open": await store.turns.list_open("GATEWAY1"),
        "deliveries": await store.outbox.list_recent(9),
        "due": await store.outbox.list_due("twilio", 99, 9),
        "sent": await store.outbox.find_by_provider_id("twilio", "SM1"),
        "webhooks": await store.webhooks.list_open("twilio", 9),
        "dead": await store.webhooks.list_dead(9),
        "audit": await store.audit.list(9),
        "command": await store.commands.find("create", "key\nwith a line", 1),
        "blobs": [await store.blobs.find(name) for name in ("whole", "begun", "none")],
        "chunks": [await store.blobs.read_chunk("whole", n) for n in range(len(BLOB))],
    }


@all_pairs
def test_every_reader_sees_the_same_in_the_copy(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        async with ends.opened(ends.source) as store:
            before = await contents(store)
        await ends.copy()
        async with ends.opened(ends.target) as store:
            assert await contents(store) == before

    between(scenario)


@all_pairs
def test_the_conversation_goes_on_after_the_copy(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        await ends.copy()
        async with ends.opened(ends.target) as store:
            again = await store.log.append([message(7), message(1), message(3, "a second")])
            assert [(a.sequence, a.duplicate) for a in again if isinstance(a, Accepted)] == [
                (13, True), (1, True), (3, True),
            ]  # fmt: skip
            (new,) = await store.log.append([message(8)])
            assert isinstance(new, Accepted)
            assert (new.sequence, new.duplicate) == (15, False)
            head = (await store.log.heads(["talk"]))["talk"]
            assert (head.sequence, head.floor) == (15, 4)
            assert (
                await store.commands.remember(
                    "create", "key\nwith a line", b"other", ends.clock.now_ms()
                )
                == b"answer"
            )

    between(scenario)


def test_fences_hold_and_their_epochs_go_on_after_the_copy(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        await ends.copy()
        async with ends.opened(ends.target) as store:
            with pytest.raises(Fenced):
                await store.vault.write([PutRecord("gateway", "k", b"")], Fence("gateway", 1))
            fence = await store.leases.acquire("gateway", "node-3", 10, ends.clock.now_ms())
            assert fence.epoch == 3
            await store.vault.write([PutRecord("gateway", "session/1", b"", 2)], fence)
            with pytest.raises(Fenced):
                await store.vault.write([PutRecord("gateway", "k", b"")], Fence("gateway", 2))

    between(scenario)


def test_what_is_made_after_the_copy_comes_after_what_was_copied(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        await ends.copy()
        async with ends.opened(ends.target) as store:
            await store.vault.write([PutTurn(Turn(EMPTY, 1, GATEWAY, "running", b""))])
            assert [turn.sequence for turn in await store.turns.list_recent(9)] == [
                1, 1, 6, 4, 9,
            ]  # fmt: skip
            await store.directory.put_one_time_keys("ADA00001", {"0": {"key": "new"}})
            taken = [await store.directory.take_key("ADA00001") for _ in range(6)]
            assert [key for key, _ in filter(None, taken)] == ["b", "a", "y", "c", "0", "f"]
            ends.clock.advance(1)
            assert await store.webhooks.put("twilio", "e0", b"raw", 1) is False
            assert await store.webhooks.put("twilio", "e9", b"raw", 1) is True
            assert [e.event for e in await store.webhooks.list_open("twilio", 9)][-1] == "e9"

    between(scenario)


class Crashed(Exception):
    """As if the process had been killed."""


class Dying:
    """A target that lives for some writes; the last is stored, but nobody is told."""

    def __init__(self, target: Any, writes: int) -> None:
        self._target, self._left = target, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def write(self, kind: str, rows: Sequence[Row], progress: Progress) -> None:
        if self._left == 0:
            raise Crashed
        self._left -= 1
        await self._target.write(kind, rows, progress)

    async def finish(self) -> None:
        if self._left == 0:
            raise Crashed
        await self._target.finish()


async def copy_until(ends: Ends, writes: int, rows_max: int = 2) -> bool:
    """Copy with a process that dies after so many writes; whether it got through."""
    async with ends.transfers() as (source, target):
        dying = Dying(target, writes)
        try:
            await copy(source, dying, clock=ends.clock, rows_max=rows_max)
        except Crashed:
            return False
        return True


@pytest.mark.slow
def test_killed_at_any_step_and_run_again_the_copy_is_the_same(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        async with ends.opened(ends.source) as store:
            before = await contents(store)
        deaths = 0
        while not await copy_until(ends, writes=1):
            deaths += 1
            with pytest.raises(UnfinishedCopy):
                await ends.target.open(ends.clock)
        assert deaths > len(KINDS)
        async with ends.opened(ends.target) as store:
            assert await contents(store) == before

    between(scenario)


def test_rows_written_twice_are_there_once(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        async with ends.transfers() as (source, target):
            progress = await target.begin(await source.rest(ends.clock.now_ms()))
            for kind in KINDS:
                page: Page = await source.read(kind, "", 99)
                for rows in filter(None, (page.rows[: len(page.rows) // 2], page.rows)):
                    half = progress.moved(kind, Step(len(rows), page.after))
                    await target.write(kind, rows, half)
            for kind in KINDS:
                ends_of = [
                    sorted(map(str, (await end.read(kind, "", 99)).rows))
                    for end in (source, target)
                ]
                assert ends_of[0] == ends_of[1]

    between(scenario)


def test_a_changed_row_is_noticed_and_the_copy_stays_closed(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        assert not await copy_until(ends, writes=len(KINDS) * 2 - 1, rows_max=99)
        await ends.target.change()
        with pytest.raises(CopyDiffers, match="differ in messages: "):
            await ends.copy()
        with pytest.raises(UnfinishedCopy):
            await ends.target.open(ends.clock)
        await ends.copy(restart=True)
        async with ends.opened(ends.target) as store:
            assert (await store.log.heads(["talk"]))["talk"].sequence == 14

    between(scenario)


def test_what_lapses_at_one_end_while_the_other_is_read_makes_no_difference(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        ends = Ends(Folder(tmp_path), Folder(tmp_path), manual_clock())
        async with ends.opened(ends.source) as store:
            await store.commands.remember("create", "k", b"a", ends.clock.now_ms())
        await copy_until(ends, writes=99)
        with closing(sqlite3.connect(ends.source.path / FILE_NAME)) as connection:  # type: ignore[union-attr]
            connection.execute("DELETE FROM commands")
            connection.commit()
        async with ends.transfers() as (source, target):
            same = [each.same for each in await compare(source, target, clock=ends.clock)]
            assert same.count(False) == 1
            ends.clock.advance(COMMAND_KEY_KEPT_S - COPY_LAPSING_S)
            assert all(each.same for each in await compare(source, target, clock=ends.clock))

    asyncio.run(scenario())


def test_a_store_that_holds_something_else_is_not_written_over(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        async with ends.opened(ends.target) as store:
            await store.conversations.create("theirs", [], 0)
        for restart in (False, True):
            with pytest.raises(StoreNotEmpty, match="holds data"):
                await ends.copy(restart=restart)
        async with ends.opened(ends.target) as store:
            assert await store.conversations.find("theirs") is not None
            assert await store.conversations.find("talk") is None

    between(scenario)


def test_a_finished_copy_is_not_copied_over(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        await ends.copy()
        with pytest.raises(StoreNotEmpty, match="--check"):
            await ends.copy()

    between(scenario)


def test_only_the_copy_that_was_begun_goes_on(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        assert not await copy_until(ends, writes=5)
        async with ends.transfers() as (_, target):
            with pytest.raises(StoreNotEmpty, match="another store"):
                await target.begin(1)
        half = Ends(ends.target, ends.source, ends.clock)
        with pytest.raises(UnfinishedCopy):
            await half.copy()

    between(scenario)


def test_attachments_without_their_bytes_are_not_copied_silently(between: Any) -> None:
    async def scenario(ends: Ends) -> None:
        if isinstance(ends.source, Folder):
            for path in (ends.source.path / "blobs").rglob("*.*.*"):
                path.write_bytes(b"other")
        else:
            link = Link(ends.source.uri, ends.source.name)
            await link["blob_chunks"].delete_many({})
            await link.close()
        with pytest.raises(StoreUnwritable, match="lost its bytes"):
            await ends.copy()

    between(scenario)


def test_large_rows_come_in_small_pages(between: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for end in ("sqlite", "mongo"):
        monkeypatch.setattr(f"angarium.storage.{end}.transfer.COPY_BATCH_BYTES", 20)

    async def scenario(ends: Ends) -> None:
        async with ends.transfers() as (source, _):
            for kind in ("messages", "records", "chunks"):
                page = await source.read(kind, "", 99)
                following = await source.read(kind, page.after, 99)
                assert 0 < len(page.rows) < 12
                assert following.rows
                assert following.rows[0] != page.rows[-1]
        await ends.copy()

    between(scenario)


def test_a_folder_that_is_read_is_not_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angarium.storage.sqlite.connection.STORE_BUSY_MS", 10)

    async def scenario() -> None:
        ends = Ends(Folder(tmp_path), Folder(tmp_path), ManualClock())
        async with ends.opened(ends.source) as store:
            await fill(store, ends.clock)
            async with ends.transfers() as (source, other):
                await source.rest(0)
                with pytest.raises(Unavailable):
                    await store.directory.take_key("ADA00001")
                second = ends.source.transfer(ends.clock)
                with pytest.raises(StoreInUse):
                    await second.rest(0)
                await second.close()
            assert await store.directory.take_key("ADA00001") is not None
            del other

    asyncio.run(scenario())


def test_a_database_whose_lease_is_held_is_in_use(mongo_uri: str) -> None:
    async def scenario() -> None:
        ends = Ends(Database(mongo_uri), Database(mongo_uri), manual_clock())
        async with ends.opened(ends.source) as store:
            fence = await store.leases.acquire("gateway", "node-1", 10, ends.clock.now_ms())
            with pytest.raises(StoreInUse, match="the lease gateway"):
                await ends.copy()
            await store.leases.release(fence, "node-1")
        await ends.copy()
        await ends.source.remove()
        await ends.target.remove()

    asyncio.run(scenario())


def test_of_two_calls_that_copy_into_a_database_the_later_one_goes_on(mongo_uri: str) -> None:
    async def scenario() -> None:
        place = Database(mongo_uri)
        first, second = place.transfer(ManualClock()), place.transfer(ManualClock())
        try:
            progress = await first.begin(7)
            assert await second.begin(7) == progress
            for write in (first.write("epoch", [Epoch(5)], progress), first.finish()):
                with pytest.raises(StoreInUse, match="taken over"):
                    await write
            await second.write("epoch", [Epoch(5)], progress.moved("epoch", Step(1, "x")))
            await second.finish()
            with pytest.raises(StoreInUse, match="finished"):
                await second.write("epoch", [Epoch(6)], progress.moved("epoch", Step(1, "x")))
            assert (await second.read("epoch", "", 9)).rows == [Epoch(5)]
        finally:
            await first.close()
            await second.close()
            await place.remove()

    asyncio.run(scenario())


def test_every_table_and_every_collection_is_copied() -> None:
    tables = set(re.findall(r"CREATE TABLE (\w+)", "".join(MIGRATIONS)))
    read = "".join(table.select for table in TABLES.values())
    assert {name for name in tables if not re.search(rf"\b{name}\b", read)} == set()
    collections = {collection.name for collection in COLLECTIONS.values()}
    # Whoever opens the copy makes reservations and journals anew.
    assert set(SHARD_KEYS) - collections == {"blob_chunks", "blob_owners", "journals"}
    assert set(KINDS) == set(TABLES) == {*COLLECTIONS, "chunks"}
