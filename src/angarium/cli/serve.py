"""`angarium serve`: start the node, say where it is, run until told to stop, drain, exit."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from angarium.config import Settings, unknown_variables
from angarium.errors import AngariumError
from angarium.node import Node
from angarium.server.runtime import allow_open_files, tune_gc
from angarium.telemetry.log import configure_logging, get_logger

ANNOUNCEMENT = "node.json"
Beside = Callable[[Node], Coroutine[Any, Any, None]]
log = get_logger("angarium.node")


def serve(
    settings: Settings,
    services: set[str],
    *,
    self_check: bool = False,
    beside: Beside | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. `beside` runs while the node does,
    once it is ready. Raises Misconfigured."""
    # For people the transcript is the output; a log line a second would bury it.
    talks = self_check or beside is not None
    level = "warning" if talks and settings.log_level == "info" else settings.log_level
    configure_logging(level, settings.log_format)
    for variable, meant in unknown_variables(os.environ).items():
        log.warning("settings.unknown", variable=variable, meant=meant)
    allow_open_files()
    return uvloop.run(_serve(settings, services, self_check, beside))


async def _serve(
    settings: Settings, services: set[str], self_check: bool, beside: Beside | None
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # SIGHUP: the terminal was closed. Without a drain the next start waits for a dead lease.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    started_s = time.monotonic()
    node = Node(settings, services)
    # Coming up may take long: a node beside another one waits for its lease.
    if not await _before(stop, node.start()):
        log.info("node.stopped")
        return 0
    tune_gc()
    announcement = announce(settings.data, node)
    log.info("node.started", services=sorted(services), after_s=time.monotonic() - started_s)
    try:
        if self_check:
            from angarium.cli.selfcheck import show

            shown: list[bool] = []

            async def check() -> None:
                shown.append(await show(node, ready_s=time.monotonic() - started_s))

            if not await _before(stop, check()):
                return 0
            if not shown[0]:
                return 1
        return await _until(stop, node, beside)
    finally:
        announcement.unlink(missing_ok=True)
        await node.drain()
        await node.stop()
        log.info("node.stopped")


async def _before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`; False when told to stop before it was done. Raises what it raises."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _until(stop: asyncio.Event, node: Node, beside: Beside | None) -> int:
    stopping = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(node.failed())
    more = asyncio.create_task(beside(node)) if beside is not None else None
    try:
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
    except AngariumError as error:
        log.error("node.failed", code=error.code, why=str(error))
        return 1
    finally:
        stopping.cancel()
        failing.cancel()
        await asyncio.gather(stopping, failing, return_exceptions=True)
        if more is not None:
            more.cancel()
            with suppress(asyncio.CancelledError):
                await more
    return 0


def announce(folder: Path, node: Node) -> Path:
    """Write where the node is, for commands on this machine; whole or not at all."""
    path = folder / ANNOUNCEMENT
    aside = path.with_suffix(f".{os.getpid()}")
    where = {"http_url": node.http_url, "websocket_url": node.websocket_url, "pid": os.getpid()}
    aside.write_text(json.dumps(where))
    aside.replace(path)
    return path
