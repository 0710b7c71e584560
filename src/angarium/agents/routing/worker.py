"""One thread for the model: computing takes milliseconds that the event loop does not have."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from angarium.agents.routing.contract import Embedder, Vectors
from angarium.errors import Busy
from angarium.limits import EMBED_BATCH_MAX, EMBED_WAITING_MAX

_Result = TypeVar("_Result")


class EmbedWorker:
    """Owns an embedder and the only thread that uses it. Close it. `name` is the model's; the
    model is loaded with the first text."""

    def __init__(
        self, name: str, load: Callable[[], Embedder], *, waiting_max: int = EMBED_WAITING_MAX
    ) -> None:
        self.name = name
        self._load, self._waiting_max = load, waiting_max
        self._embedder: Embedder | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")
        self._waiting = 0

    async def run(self, work: Callable[[Embedder], _Result]) -> _Result:
        """Do `work` in the thread. Raises Busy where too much waits for it, and Misconfigured
        for a model that does not load."""
        if self._waiting >= self._waiting_max:
            raise Busy("too many texts wait for the routing model")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._work, work)
        finally:
            self._waiting -= 1

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """A row for each text, a few at once, so that others get in between. Raises Busy and
        Misconfigured."""
        batches = []
        for start in range(0, len(texts), EMBED_BATCH_MAX):
            batch = texts[start : start + EMBED_BATCH_MAX]
            batches.append(await self.run(partial(_embed, batch)))
        return [row for rows in batches for row in rows]

    async def close(self) -> None:
        """What waits is dropped; what runs, ends."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    def _work(self, work: Callable[[Embedder], _Result]) -> _Result:
        if self._embedder is None:
            self._embedder = self._load()
        return work(self._embedder)


def _embed(texts: Sequence[str], embedder: Embedder) -> Vectors:
    return embedder.embed(texts)
