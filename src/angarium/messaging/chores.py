"""Background work with an owner: every task is awaited by `close`."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log_lines = logging.getLogger("angarium.messaging")


class Chores:
    """A named set of tasks. A chore that raises is told in the log; the others go on."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Cancel what still runs and wait for all of it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_lines.error(
                "chore.failed", extra={"chore": task.get_name(), "error": type(error).__name__}
            )
