"""Marks: each conversation's document names a head that its acknowledged messages reach up to.

To raise it before each acknowledgement would be a write for every message. Instead a node notes
the heads of a commit in a journal of its own, one small document, before it acknowledges, and
raises the marks of what is in it every MONGO_MARKS_EVERY_S. Whoever asks for heads reads the
journals first and the marks after them: a head is in one or the other. A dead node's journal
still counts, and is folded into the marks by whoever opens the store next.
"""

import asyncio
import re
from collections.abc import Mapping

from pymongo import UpdateOne

from angarium.errors import AngariumError
from angarium.ids import ConversationId
from angarium.limits import MONGO_JOURNAL_MAX, MONGO_MARKS_EVERY_S
from angarium.storage.mongo.link import Link
from angarium.telemetry.log import get_logger

_log = get_logger("angarium.store")
_FIELD = re.compile(r"[A-Za-z0-9_-]{1,64}")  # Anything else would be a path in a document.


class Marks:
    """`node` names this node's journal. One write in flight; what arrives joins the next."""

    def __init__(self, link: Link, node: str, every_s: float = MONGO_MARKS_EVERY_S) -> None:
        self._link, self._node, self._every_s = link, node, every_s
        self._waiting: dict[ConversationId, int] = {}
        self._journal: dict[ConversationId, int] = {}
        self._next: asyncio.Task[AngariumError | None] | None = None
        self._raising: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[AngariumError | None]] = set()

    async def cover(self, conversation: ConversationId, sequence: int) -> None:
        """Returns once everybody finds a head of at least `sequence`. Raises Unavailable."""
        self._waiting[conversation] = max(self._waiting.get(conversation, 0), sequence)
        if self._next is None:
            self._next = asyncio.create_task(self._write(), name="store heads")
            self._tasks.add(self._next)
            self._next.add_done_callback(self._tasks.discard)
        error = await asyncio.shield(self._next)
        if error is not None:
            raise error

    async def close(self) -> None:
        """Finish what was begun and raise the marks, if the store answers."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._raising is not None:
            self._raising.cancel()
            await asyncio.gather(self._raising, return_exceptions=True)
            self._raising = None
        try:
            await self._raise_marks()
        except AngariumError:
            pass  # The journal still counts.

    async def _write(self) -> AngariumError | None:
        async with self._turn:
            self._next, heads, self._waiting = None, self._waiting, {}
            try:
                if self._has_room(heads):
                    await self._note(heads)
                else:
                    await raise_marks(self._link, heads)
            except AngariumError as error:
                return error
            return None

    def _has_room(self, heads: Mapping[ConversationId, int]) -> bool:
        return len(self._journal.keys() | heads.keys()) <= MONGO_JOURNAL_MAX and all(
            _FIELD.fullmatch(name) for name in heads
        )

    async def _note(self, heads: Mapping[ConversationId, int]) -> None:
        fields = {f"heads.{name}": head for name, head in heads.items()}
        change = {"$set": fields, "$inc": {"writes": 1}}
        journals = self._link["journals"]
        await self._link.call(
            lambda: journals.update_one({"_id": self._node}, change, upsert=True),
            bounded=False,
        )
        self._journal.update(heads)
        if self._raising is None:
            self._raising = asyncio.create_task(self._keep_raising(), name="store marks")

    async def _keep_raising(self) -> None:
        """Until the journal is empty; a store that is away is asked again later."""
        while self._journal:
            await asyncio.sleep(self._every_s)
            try:
                await self._raise_marks()
            except AngariumError:
                continue
            except Exception as error:
                # Heads stay right without marks; a task that ended here would raise none again.
                _log.error("marks.failed", error=type(error).__name__)
        self._raising = None

    async def _raise_marks(self) -> None:
        raised = dict(self._journal)
        if not raised:
            return
        await raise_marks(self._link, raised)
        async with self._turn:
            left = {c: head for c, head in self._journal.items() if head > raised.get(c, 0)}
            journals, place = self._link["journals"], {"_id": self._node}
            change = {"$set": {"heads": left}, "$inc": {"writes": 1}}
            if left:
                await self._link.call(
                    lambda: journals.update_one(place, change, upsert=True), bounded=False
                )
            else:
                await self._link.call(lambda: journals.delete_one(place), bounded=False)
            self._journal = left


async def raise_marks(link: Link, heads: Mapping[ConversationId, int]) -> None:
    """Let conversations name these heads, where they name lower ones. Raises Unavailable."""
    changes = [
        UpdateOne({"_id": name}, {"$max": {"head": head}}) for name, head in heads.items()
    ]
    conversations = link["conversations"]
    await link.call(lambda: conversations.bulk_write(changes, ordered=False), bounded=False)


async def noted_heads(link: Link) -> dict[ConversationId, int]:
    """The highest head that any node's journal has, by conversation. Ask before the marks."""
    found: dict[ConversationId, int] = {}
    for journal in await link.list("journals", {}, {"heads": 1}):
        for name, head in journal.get("heads", {}).items():
            found[name] = max(head, found.get(name, 0))
    return found


async def fold_journals(link: Link) -> None:
    """Raise the marks that dead nodes noted, and drop their journals. A living node's journal
    may be among them: what it adds meanwhile stays. Raises Unavailable."""
    for journal in await link.list("journals", {}):
        if heads := journal.get("heads"):
            await raise_marks(link, heads)
        same = {"_id": journal["_id"], "writes": journal.get("writes")}
        await link.call(lambda same=same: link["journals"].delete_one(same))  # type: ignore[misc]
