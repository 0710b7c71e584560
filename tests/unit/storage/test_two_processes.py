"""A second process that opens and closes the store takes nothing from the first."""

import asyncio
import subprocess
import sys
from pathlib import Path

from angarium.clock import SystemClock
from angarium.storage.contract import PutRecord
from angarium.storage.sqlite.store import open_sqlite

OPEN_AND_CLOSE = """
import asyncio, sys
from pathlib import Path
from angarium.clock import SystemClock
from angarium.storage.sqlite.store import open_sqlite

async def main():
    store = await open_sqlite(Path(sys.argv[1]), SystemClock())
    print(len(await store.store.vault.read("notes")))
    await store.close()

asyncio.run(main())
"""


def other_process(folder: Path) -> int:
    """Opens the store, counts the notes, closes it."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_CLOSE, str(folder)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_what_is_written_after_another_process_closed_is_seen_by_the_next(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        ours = await open_sqlite(tmp_path, SystemClock())
        await ours.store.vault.write([PutRecord("notes", "before", b"x")])
        assert await asyncio.to_thread(other_process, tmp_path) == 1
        await ours.store.vault.write([PutRecord("notes", "after", b"y")])
        # As after a kill of this process: nothing is closed here first.
        assert await asyncio.to_thread(other_process, tmp_path) == 2
        await ours.close()

    asyncio.run(scenario())
