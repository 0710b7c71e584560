"""`angarium db copy` as a process that is killed, and what it leaves behind."""

import asyncio
import os
import sqlite3
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.errors import UnfinishedCopy
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.model.message import NewMessage
from angarium.storage.mongo.link import Link
from angarium.storage.mongo.schema import unfinished as unfinished_database
from angarium.storage.mongo.store import open_mongo
from angarium.storage.schema import unfinished
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import open_sqlite
from angarium.storage.transfer import decode_progress

TALK, ADA = ConversationId("talk"), DeviceId("ADA00001")
MESSAGES = 1200
SEALED_BYTES = 20_000  # Few messages fill a batch, and there are several to be killed in.
KILLS = 2
WAIT_S = 60.0
Rows = Callable[[], Awaitable[int]]


def said(cs: int) -> NewMessage:
    user, key = UserId("@ada:x"), MessageKey(str(uuid.UUID(int=cs)))
    return NewMessage(
        TALK, user, ADA, key, cs, "m", {ADA: cs.to_bytes(4, "big") * (SEALED_BYTES // 4)}, 0
    )


async def fill(folder: Path) -> None:
    store = await open_sqlite(folder, ManualClock())
    await store.store.conversations.create(TALK, [], 0)
    for first in range(1, MESSAGES, 100):
        await store.store.log.append([said(cs) for cs in range(first, first + 100)])
    await store.close()


async def start(source: Path, target: str) -> asyncio.subprocess.Process:
    kept = {name: value for name, value in os.environ.items() if "ANGARIUM_" not in name}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "angarium", "db", "copy", f"sqlite://{source}", target,
        env=kept, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def kill_at_work(source: Path, target: str, copied: Rows) -> int:
    """Start the command and kill it once it has copied more messages; how many it had."""
    before = await copied()
    process = await start(source, target)
    try:
        async with asyncio.timeout(WAIT_S):
            while await copied() <= before:
                assert process.returncode is None, (await process.communicate())[1]
                await asyncio.sleep(0.005)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
    return await copied()


async def finish(source: Path, target: str) -> str:
    process = await start(source, target)
    async with asyncio.timeout(WAIT_S):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def killed_and_finished(
    source: Path, target: str, copied: Rows, reopen: Callable[[], Awaitable[Any]]
) -> None:
    await fill(source)
    reached = [await kill_at_work(source, target, copied) for _ in range(KILLS)]
    assert sorted(set(reached)) == reached  # It went on, each time.
    assert reached[-1] < MESSAGES, "it was killed too late to prove anything"
    with pytest.raises(UnfinishedCopy, match="is not done"):
        await reopen()
    table = await finish(source, target)
    assert f"messages {MESSAGES} {MESSAGES}" in " ".join(table.split())
    store = await reopen()
    stored = await store.store.log.read(TALK, ADA, 1, MESSAGES, MESSAGES)
    assert [(each.sequence, each.key) for each in stored] == [
        (cs, str(uuid.UUID(int=cs))) for cs in range(1, MESSAGES + 1)
    ]
    assert (await store.store.log.heads([TALK]))[TALK].sequence == MESSAGES
    await store.close()


@pytest.mark.slow
@pytest.mark.process
def test_a_killed_copy_into_mongodb_goes_on_and_nothing_is_lost(
    tmp_path: Path, mongo_uri: str
) -> None:
    name = f"t_{uuid.uuid4().hex}"
    address, _, options = mongo_uri.partition("/?")
    uri = f"{address.rstrip('/')}/{name}" + (f"?{options}" if options else "")

    async def scenario() -> None:
        link = Link(mongo_uri, name)

        async def copied() -> int:
            text = await unfinished_database(link)
            return decode_progress(text).of("messages").rows if text else 0

        async def reopen() -> Any:
            return await open_mongo(mongo_uri, ManualClock(), database=name)

        try:
            await killed_and_finished(tmp_path / "old", uri, copied, reopen)
        finally:
            await link.client.drop_database(name)
            await link.close()

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.process
def test_a_killed_copy_into_a_folder_goes_on_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    async def copied() -> int:
        if not (folder / FILE_NAME).exists():
            return 0
        with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
            text = unfinished(connection)
        return decode_progress(text).of("messages").rows if text else 0

    async def reopen() -> Any:
        return await open_sqlite(folder, ManualClock())

    asyncio.run(killed_and_finished(tmp_path / "old", f"sqlite://{folder}", copied, reopen))
