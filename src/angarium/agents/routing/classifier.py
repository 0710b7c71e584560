"""Asks the examples; keeps them in step with the registry, in the background."""

import asyncio
import logging
from collections.abc import Collection, Sequence

from angarium.agents.contract import AgentKind
from angarium.agents.registry import Roster
from angarium.agents.routing.contract import Embedder, Vectors
from angarium.agents.routing.embedders import joined
from angarium.agents.routing.index import ExampleIndex
from angarium.agents.routing.lint import Example, Tried
from angarium.agents.routing.nobody import NOBODY
from angarium.agents.routing.rules import Guess
from angarium.agents.routing.worker import EmbedWorker
from angarium.errors import AngariumError, Misconfigured
from angarium.limits import EMBED_CHARS_MAX, ROUTE_EXAMPLES_MAX, ROUTE_REBUILD_RETRY_S

_log = logging.getLogger(__name__)


class Classifier:
    """Implements `Examples` with those of the roster that `update` was told last. While new
    ones are being read, the old ones serve; what did not change is not read again."""

    def __init__(self, worker: EmbedWorker) -> None:
        self._worker = worker
        self._roster: Roster | None = None
        self._index: ExampleIndex | None = None
        self._vectors: dict[str, Vectors] = {}
        self._building: asyncio.Task[None] | None = None
        self._built = asyncio.Event()
        self._trouble: Misconfigured | None = None
        self.version = ""

    def update(self, roster: Roster) -> None:
        before, self._roster = self._roster, roster
        if before is roster or (before and before.version == roster.version):
            return
        self._built.clear()
        if self._building is None or self._building.done():
            self._building = asyncio.create_task(self._build(), name="routing examples")

    async def ready(self) -> None:
        await self._built.wait()
        if self._trouble is not None:
            raise self._trouble

    async def guess(self, text: str, allowed: Collection[str], sticky: str) -> Guess | None:
        index = self._index
        if index is None or not index.examples:
            return None

        def look(embedder: Embedder) -> Guess | None:
            return index.look(embedder.embed([text])[0], allowed, sticky)

        return await self._worker.run(look)

    async def try_all(self) -> list[Tried]:
        """Each example against the others; none where there is nothing to choose by."""
        index = self._index
        return [] if index is None else await self._worker.run(lambda _: index.try_all())

    async def close(self) -> None:
        """The worker belongs to the caller."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.gather(self._building, return_exceptions=True)

    async def _build(self) -> None:
        while (roster := self._roster) is not None and not self._built.is_set():
            try:
                await self._read(roster)
            except Misconfigured as error:
                self._trouble = error  # The model does not load, and will not.
                self._built.set()
            except AngariumError as error:
                _log.warning("routing examples could not be read: %s", error.code)
                await asyncio.sleep(ROUTE_REBUILD_RETRY_S)
                continue
            if self._roster is not None and roster.version == self._roster.version:
                self._built.set()

    async def _read(self, roster: Roster) -> None:
        examples = examples_of(tuple(roster.agents.values()))
        if not examples or len(roster.agents) < 2:
            self._index, self.version = None, ""  # There is nothing to choose by.
            return
        texts = dict.fromkeys([*NOBODY, *(example.text for example in examples)])
        missing = [text for text in texts if text not in self._vectors]
        vectors = await self._worker.embed(missing)
        known = {**self._vectors, **dict(zip(missing, vectors, strict=True))}
        self._vectors = {text: known[text] for text in texts}

        def build(embedder: Embedder) -> ExampleIndex:
            return ExampleIndex(
                examples,
                joined([known[example.text][None] for example in examples], embedder.dim),
                joined([known[text][None] for text in NOBODY], embedder.dim),
                keep=roster.declared.routing.oos_keep,
                unlike=embedder.unlike,
            )

        self._index = await self._worker.run(build)
        self.version = f"{self._worker.name}/{roster.version}"


def examples_of(agents: Sequence[AgentKind]) -> list[Example]:
    """Every agent's examples, each once and cut; where all are too many, evenly fewer."""
    found = [
        Example(agent.name, text)
        for agent in agents
        for text in dict.fromkeys(
            " ".join(example.split())[:EMBED_CHARS_MAX] for example in agent.terms.examples
        )
        if text
    ]
    step = -(-len(found) // ROUTE_EXAMPLES_MAX) or 1
    return found[::step]
