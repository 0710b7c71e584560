"""Look for damage in a MongoDB store: what `care.check` looks for, and marked heads."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from angarium.ids import ConversationId
from angarium.limits import MONGO_MIGRATE_CALL_S
from angarium.storage.chunks import chunk_digest
from angarium.storage.mongo.blobs import chunk_id
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.marks import noted_heads
from angarium.storage.mongo.schema import check_version
from angarium.storage.report import PROBLEMS_MAX, Report

_Heads = Mapping[ConversationId, int]
_PAGE = 1000
_SHOWN = {"c": 1, "seq": 1, "dev": 1, "cs": 1}


async def check(uri: str, *, database: str = "angarium") -> Report:
    """Dense sequences, order of counters, marked heads, chunks without their bytes.

    Reads everything once; what nodes write meanwhile may be seen in part. Raises Misconfigured,
    SchemaMismatch, Unavailable.
    """
    link = Link(uri, database, call_s=MONGO_MIGRATE_CALL_S)
    try:
        await check_version(link)
        problems: list[str] = []
        noted = await noted_heads(link)
        messages = await _check_messages(link, noted, problems)
        blobs, orphans = await _check_chunks(link, problems)
        conversations = await link.call(lambda: link["conversations"].count_documents({}))
        return Report(conversations, messages, blobs, tuple(problems), tuple(orphans))
    finally:
        await link.close()


@dataclass(slots=True)
class _Log:
    """The messages of one conversation, as they are read in order."""

    name: str
    last: int = 0
    count: int = 0
    broken: bool = False
    counters: dict[str, int] = field(default_factory=dict)

    def take(self, d: Document) -> str:
        """The problem with the next message; empty: none, or one was told before."""
        self.count += 1
        due_seq, self.last = self.last + 1, d["seq"]
        due_cs = self.counters.get(d["dev"], 0) + 1
        self.counters[d["dev"]] = d["cs"]
        problem = ""
        if d["seq"] != due_seq:
            problem = f"conversation {self.name}: sequence {d['seq']}, expected {due_seq}"
        elif d["cs"] != due_cs:
            problem = (
                f"device {d['dev']} in {self.name}: counter {d['cs']} at sequence {d['seq']},"
                f" expected {due_cs}"
            )
        told, self.broken = self.broken, self.broken or bool(problem)
        return "" if told else problem


async def _check_messages(link: Link, noted: _Heads, problems: list[str]) -> int:
    """How many there are."""
    total = marked = 0
    log = _Log("")
    ended: list[_Log] = []
    async for d in _messages(link):
        if d["c"] != log.name:
            ended.append(log)
            log = _Log(d["c"])
            if len(ended) > _PAGE:
                marked += await _check_heads(link, noted, ended, problems)
                ended = []
        total += 1
        problem = log.take(d)
        if problem and len(problems) < PROBLEMS_MAX:
            problems.append(problem)
    marked += await _check_heads(link, noted, [*ended, log], problems)
    named = await link.call(lambda: link["conversations"].count_documents({"head": {"$gt": 0}}))
    if named > marked:
        problems.append(f"{named - marked} conversations have lost all their messages")
    return total


async def _messages(link: Link) -> AsyncIterator[Document]:
    """Every message by conversation and sequence, in pages that can be asked for again."""
    order = [("c", 1), ("seq", 1)]
    name, last = "", 0
    while True:
        rest = {"c": name, "seq": {"$gt": last}}
        page = await link.list("messages", rest, _SHOWN, sort=order, documents_max=_PAGE)
        if not page:
            beyond = {"c": {"$gt": name}}
            page = await link.list("messages", beyond, _SHOWN, sort=order, documents_max=_PAGE)
        if not page:
            return
        for d in page:
            yield d
        name, last = page[-1]["c"], page[-1]["seq"]


async def _check_heads(link: Link, noted: _Heads, logs: list[_Log], problems: list[str]) -> int:
    """A mark may be behind the newest message, by what was never acknowledged, but not ahead.

    Returns how many of these conversations have a mark.
    """
    names = [log.name for log in logs if log.count]
    found = await link.list("conversations", {"_id": {"$in": names}}, {"head": 1})
    heads = {each["_id"]: max(each["head"], noted.get(each["_id"], 0)) for each in found}
    for log in logs:
        if log.count and len(problems) < PROBLEMS_MAX:
            if log.name not in heads:
                problems.append(f"conversation {log.name}: it has messages and is not there")
            elif heads[log.name] > log.last:
                problems.append(
                    f"conversation {log.name}: the head is {heads[log.name]}, the newest"
                    f" message {log.last}"
                )
    return sum(each["head"] > 0 for each in found)


async def _check_chunks(link: Link, problems: list[str]) -> tuple[int, list[str]]:
    """How many attachments there are, and chunks that none of them names."""
    blobs, blob = 0, ""
    while True:
        page = await link.list(
            "blobs", {"_id": {"$gt": blob}}, {"parts": 1}, sort=[("_id", 1)],
            documents_max=_PAGE,
        )  # fmt: skip
        for each in page:
            for position, part in each["parts"].items():
                problem = await _chunk_problem(link, each["_id"], int(position), part["digest"])
                if problem and len(problems) < PROBLEMS_MAX:
                    problems.append(f"attachment {each['_id']}: {problem}")
        if not page:
            return blobs, await _orphans(link)
        blobs, blob = blobs + len(page), page[-1]["_id"]


async def _chunk_problem(link: Link, blob: str, position: int, digest: str) -> str:
    place = {"blob": blob, "_id": chunk_id(blob, position, digest)}
    found = await link.find("blob_chunks", place)
    if found is None:
        return "a chunk is missing"
    return "" if chunk_digest(found["bytes"]) == digest else "a chunk has changed"


async def _orphans(link: Link) -> list[str]:
    orphans: list[str] = []
    name = ""
    while len(orphans) < PROBLEMS_MAX:
        page = await link.list(
            "blob_chunks", {"_id": {"$gt": name}}, {"blob": 1}, sort=[("_id", 1)],
            documents_max=_PAGE,
        )  # fmt: skip
        if not page:
            break
        wanted = list({each["blob"] for each in page})
        found = await link.list("blobs", {"_id": {"$in": wanted}}, {"parts": 1})
        named = {
            chunk_id(each["_id"], int(position), part["digest"])
            for each in found
            for position, part in each["parts"].items()
        }
        orphans += [each["_id"] for each in page if each["_id"] not in named]
        name = page[-1]["_id"]
    return orphans[:PROBLEMS_MAX]
