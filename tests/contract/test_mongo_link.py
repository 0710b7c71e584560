"""The connection to a MongoDB that is not there."""

import asyncio
import gc
import socket
import sys
import warnings
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.store import open_mongo
from angarium.testing.redis_server import quiet_port


@pytest.mark.slow
def test_a_link_to_a_store_that_is_gone_leaves_no_socket_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as nobody:  # Bound, and nobody listens: connections are refused.
        nobody.bind(("127.0.0.1", 0))
        uri = f"mongodb://127.0.0.1:{nobody.getsockname()[1]}"
        left: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", left.append)

        async def open_and_close() -> None:
            link = Link(uri, "x", call_s=0.05)
            with pytest.raises(Unavailable):
                await link.find("meta", {})
            await link.close()

        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            for _ in range(8):
                asyncio.run(open_and_close())
                gc.collect()
        assert left == []


def test_a_store_that_is_away_at_a_start_is_named_without_its_password() -> None:
    async def scenario() -> None:
        place = f"127.0.0.1:{quiet_port()}"
        uri = f"mongodb://ann:secret@{place}/?serverSelectionTimeoutMS=100"
        with pytest.raises(Unavailable, match=place) as caught:
            await open_mongo(uri, ManualClock(), call_s=0.2)

        assert "secret" not in str(caught.value)

    asyncio.run(scenario())


def test_a_task_that_is_told_to_end_ends_although_the_driver_lost_the_cancel() -> None:
    async def deaf() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            pass
        return "answer"

    async def scenario() -> None:
        link = Link("mongodb://127.0.0.1:9", "x")

        async def work() -> None:
            while True:
                await link.call(deaf)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
        await link.close()

    asyncio.run(scenario())
