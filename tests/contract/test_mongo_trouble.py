"""A MongoDB that is slow, away for seconds, forgetful, or changes its primary: nothing is lost,
nothing is stored twice, and what waits is bounded. Row 8 of the matrix, at the store."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from pymongo.errors import PyMongoError

from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.model.conversation import Participant
from angarium.model.message import Accepted, NewMessage
from angarium.storage.contract import PutRecord, Record
from angarium.storage.mongo.store import open_mongo
from angarium.testing.faults import FaultProxy

from .late import as_single_server

C = ConversationId("c")
SENDERS = 6
Scenario = Callable[["Trouble"], Awaitable[None]]


def message(device: str, cs: int) -> NewMessage:
    fields = (C, UserId("@a:x"), DeviceId(device), MessageKey(f"{device}-{cs}"), cs, "m")
    return NewMessage(*fields, {DeviceId("R"): b"x"}, 0)


@dataclass
class Trouble:
    """A node's store behind a bad network, and another one that reaches the server well."""

    store: Any
    well: Any
    network: FaultProxy
    going: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, device: str, first: int, last: int) -> dict[int, int]:
        """As a client does: each message again until it is accepted; sequences by counter."""
        sequences: dict[int, int] = {}
        for cs in range(first, last + 1):
            while cs not in sequences:
                (result,) = await self.store.store.log.append([message(device, cs)])
                if isinstance(result, Accepted):
                    sequences[cs] = result.sequence
                    if cs == 2:
                        self.going.set()
                else:
                    assert isinstance(result.error, Unavailable), result.error
                    await asyncio.sleep(0.05)
        return sequences

    async def send_all(self, first: int, last: int) -> list[dict[int, int]]:
        devices = [f"DEVICE{n:02}" for n in range(SENDERS)]
        return await asyncio.gather(*(self.send(device, first, last) for device in devices))

    async def check(self, last: int, acknowledged: list[dict[int, int]]) -> None:
        """I1, I2, I4 and I5 as another node sees them."""
        read = await self.well.store.log.read(C, DeviceId("R"), 1, 10_000, 10_000)
        assert [entry.sequence for entry in read] == list(range(1, SENDERS * last + 1))
        for number, told in enumerate(acknowledged):
            own = {e.cs: e.sequence for e in read if e.device == f"DEVICE{number:02}"}
            assert list(own) == list(range(1, last + 1))
            assert told.items() <= own.items()


@pytest.fixture
def in_trouble(mongo_uri: str, fresh_mongo: Any) -> Callable[[Scenario], None]:
    @asynccontextmanager
    async def troubled() -> AsyncIterator[Trouble]:
        place = await as_single_server(mongo_uri)
        if place is None:
            assert "MONGODB_URI" in os.environ
            pytest.skip("MONGODB_URI names several servers; the proxy stands before one")
        well = await fresh_mongo(mongo_uri, ManualClock())
        try:
            async with FaultProxy(*place) as network:
                name = well._link.name
                uri = network.before(mongo_uri)
                store = await open_mongo(uri, ManualClock(), database=name)
                try:
                    yield Trouble(store, well, network)
                finally:
                    await network.heal()
                    await store.close()
        finally:
            await well.close()

    async def run(scenario: Scenario) -> None:
        async with troubled() as trouble:
            person = Participant(UserId("@a:x"), "person")
            await trouble.well.store.conversations.create(C, [person], 0)
            await scenario(trouble)

    return lambda scenario: asyncio.run(run(scenario))


@pytest.mark.slow
def test_a_slow_store_is_waited_for_in_few_large_groups(in_trouble: Any) -> None:
    async def scenario(trouble: Trouble) -> None:
        told = await trouble.send_all(1, 1)
        before = trouble.store.figures()["commits"]
        trouble.network.delay(request_ms=250, response_ms=250)
        more = await trouble.send_all(2, 4)
        assert trouble.store.figures()["commits"] - before <= 3 * 3  # Of 18 messages.
        trouble.network.delay()
        await trouble.check(4, [a | b for a, b in zip(told, more, strict=True)])

    in_trouble(scenario)


@pytest.mark.slow
def test_a_store_that_is_gone_is_told_in_time_and_comes_back_by_itself(in_trouble: Any) -> None:
    async def scenario(trouble: Trouble) -> None:
        told = await trouble.send_all(1, 2)
        trouble.store._link.call_s = 0.5
        trouble.network.black_hole()
        now_s = asyncio.get_running_loop().time
        started_s = now_s()
        (result,) = await trouble.store.store.log.append([message("DEVICE00", 3)])
        with pytest.raises(Unavailable):
            await trouble.store.store.vault.write([PutRecord("s", "k", b"1")])
        assert isinstance(result.error, Unavailable)
        assert now_s() - started_s < 5
        sending = asyncio.create_task(trouble.send_all(3, 4))
        await asyncio.sleep(2.0)
        assert trouble.store.figures()["writes_waiting"] <= SENDERS
        await trouble.network.heal()
        more = await sending
        trouble.store._link.call_s = 5.0
        await trouble.store.store.vault.write([PutRecord("s", "k", b"2")])
        (record,) = await trouble.well.store.vault.read("s")
        assert record.blob == b"2"
        await trouble.check(4, [a | b for a, b in zip(told, more, strict=True)])

    in_trouble(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["insert", "update"])
def test_answers_that_are_lost_leave_each_write_once(in_trouble: Any, command: str) -> None:
    async def scenario(trouble: Trouble) -> None:
        marker = b"\x02" + command.encode() + b"\x00"
        told = await trouble.send_all(1, 1)
        for round_ in range(2, 5):
            trouble.network.lose_responses(marker, times=1)
            for now, more in zip(told, await trouble.send_all(round_, round_), strict=True):
                now |= more
        trouble.network.lose_responses(marker, times=1)
        await trouble.store.store.vault.write([PutRecord("s", "k", b"1", 0)])
        assert trouble.network.responses_lost >= 3
        await trouble.network.heal()
        assert await trouble.well.store.vault.read("s") == [Record("s", "k", 1, b"1")]
        await trouble.check(4, told)

    in_trouble(scenario)


@pytest.mark.slow
def test_a_primary_that_steps_down_loses_nothing_and_makes_no_copy(
    mongo_uri: str, fresh_mongo: Any
) -> None:
    async def scenario() -> None:
        opened = await fresh_mongo(mongo_uri, ManualClock())
        try:
            admin = opened._link.client.admin
            if "setName" not in await admin.command("hello"):
                assert "MONGODB_URI" in os.environ
                pytest.skip("MONGODB_URI is no replica set: there is no primary to step down")
            person = Participant(UserId("@a:x"), "person")
            await opened.store.conversations.create(C, [person], 0)
            trouble = Trouble(opened, opened, FaultProxy("", 0))
            told = await trouble.send_all(1, 1)
            sending = asyncio.create_task(trouble.send_all(2, 6))
            await trouble.going.wait()
            before = opened.figures()["calls_repeated"] + opened.figures()["races_lost"]
            with suppress(PyMongoError):  # The connection may go down with it.
                await admin.command("replSetStepDown", 1, force=True)
            more = await sending
            after = opened.figures()["calls_repeated"] + opened.figures()["races_lost"]
            assert after > before, "nobody met the step-down"
            await trouble.check(6, [a | b for a, b in zip(told, more, strict=True)])
        finally:
            await opened.close()

    asyncio.run(scenario())
