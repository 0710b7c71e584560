"""`angarium db copy`: from store to store, with progress and a table of what was compared."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TextIO

from angarium.cli.stores import Place, demand_still, transfer
from angarium.clock import SystemClock
from angarium.errors import Misconfigured
from angarium.limits import COPY_TOLD_EVERY_S
from angarium.storage.copying import Compared, compare, copy

_REDRAWN_EVERY_S = 0.1
_DIGEST_SHOWN = 16  # Of 64 digits; the comparison is over all of them.


class Told:
    """Progress on a terminal in place, elsewhere as a line every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._told_s = 0.0

    def __call__(self, doing: str, kind: str, rows: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < (_REDRAWN_EVERY_S if self._live else COPY_TOLD_EVERY_S):
            return
        self._told_s = now_s
        line = f"{doing} {kind}: {rows} rows"
        self._write(f"\r\x1b[2K{line}" if self._live else f"{line}\n")

    def clear(self) -> None:
        if self._live:
            self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def copy_store(source: Place, target: Place, *, restart: bool) -> None:
    """Copy, compare, print. Raises what `storage.copying.copy` raises."""
    _demand_different(source, target)
    for place in (source, target):
        demand_still(place)
    asyncio.run(_copy(source, target, restart))
    print(f"done: serve {target.shown} from now on, and {source.shown} never again")


async def _copy(source: Place, target: Place, restart: bool) -> None:
    told = Told(sys.stderr)
    async with AsyncExitStack() as stack:
        reading, writing = transfer(source), transfer(target)
        for end in (reading, writing):
            stack.push_async_callback(end.close)
        try:
            await copy(
                reading, writing,
                clock=SystemClock(), restart=restart, tell=told, show=show,
            )  # fmt: skip
        finally:
            told.clear()


def compare_stores(source: Place, target: Place) -> bool:
    """Compare, print; whether they agree."""
    _demand_different(source, target)
    compared = asyncio.run(_compare(source, target))
    show(compared)
    return all(each.same for each in compared)


async def _compare(source: Place, target: Place) -> tuple[Compared, ...]:
    told = Told(sys.stderr)
    async with AsyncExitStack() as stack:
        ends = transfer(source), transfer(target)
        for end in ends:
            stack.push_async_callback(end.close)
        try:
            return await compare(*ends, clock=SystemClock(), tell=told)
        finally:
            told.clear()


def show(compared: Sequence[Compared]) -> None:
    """Print the table."""
    print(f"{'':<14} {'from':>9} {'to':>9}  hash")
    for each in compared:
        (rows, digest), (other_rows, other) = each.source, each.target
        verdict = digest[:_DIGEST_SHOWN]
        if not each.same:
            verdict += f" {other[:_DIGEST_SHOWN]} DIFFERENT"
        print(f"{each.kind:<14} {rows:>9} {other_rows:>9}  {verdict}")


def _demand_different(source: Place, target: Place) -> None:
    folders = [place.folder and place.folder.resolve() for place in (source, target)]
    if (folders[0], source.url) == (folders[1], target.url):
        raise Misconfigured("a store cannot be copied onto itself; name two")
