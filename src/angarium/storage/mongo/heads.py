"""Heads: what is known of each conversation, asked of a majority and remembered."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from angarium.ids import ConversationId, DeviceId, MessageKey
from angarium.limits import MONGO_NEWER_MAX, STORE_CONVERSATIONS_CACHED
from angarium.model.conversation import Head
from angarium.model.message import StoredMessage
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.marks import noted_heads
from angarium.storage.mongo.placing import Earlier, Known
from angarium.storage.mongo.turns import Ring

_SHOWN_EARLIER = {"seq": 1, "cs": 1, "key": 1, "hash": 1, "at": 1, "purged_ms": 1}
_SHOWN_NEWER = {**_SHOWN_EARLIER, "dev": 1}


class Heads:
    """The newest of everything, asked of the majority and remembered."""

    def __init__(self, link: Link, name: bytes = b"") -> None:
        self._link, self._name = link, name
        self._known: OrderedDict[ConversationId, Known] = OrderedDict()

    async def load(self, names: Iterable[ConversationId]) -> dict[ConversationId, Known]:
        """What is known of each conversation that exists; the unknown ones are looked up."""
        wanted = set(names)
        found = {name: self._known[name] for name in wanted if name in self._known}
        for name in found:
            self._known.move_to_end(name)
        missing = wanted - found.keys()
        if missing:
            documents = await self._link.list(
                "conversations", {"_id": {"$in": list(missing)}}, {"epoch": 1, "head": 1},
                bounded=False,
            )  # fmt: skip
            for each in documents:
                # Maybe behind what nobody acknowledged; then the first insert meets it.
                loaded = Known(each["epoch"], each["head"], each["head"], ring=Ring(self._name))
                found[each["_id"]] = self._known.setdefault(each["_id"], loaded)
            while len(self._known) > STORE_CONVERSATIONS_CACHED:
                self._known.popitem(last=False)
        return found

    def peek(self, name: ConversationId) -> Known | None:
        """What is known already, without asking."""
        return self._known.get(name)

    def learn(self, message: StoredMessage) -> None:
        """Raise the head to a message that another node was told is stored, if it is the next
        one: then all before it is known too, and the race for its sequence is not run."""
        known = self._known.get(message.conversation)
        if known is None or (known.epoch, known.head + 1) != (message.epoch, message.sequence):
            return
        known.head = message.sequence
        known.ring.told(message.device, asyncio.get_running_loop().time())
        if message.device in known.counters:
            at = known.counters[message.device]
            known.counters[message.device] = max(at, message.cs)

    async def newer(
        self, name: ConversationId, known: Known
    ) -> dict[tuple[DeviceId, MessageKey], Earlier]:
        """What others stored above the known head, which it raises with the counters. Empty:
        nothing, or too much to read at once; then nothing was raised."""
        documents = await self._link.list(
            "messages", {"c": name, "seq": {"$gt": known.head}}, _SHOWN_NEWER,
            sort=[("seq", 1)], documents_max=MONGO_NEWER_MAX, bounded=False,
        )  # fmt: skip
        if not documents or len(documents) == MONGO_NEWER_MAX:
            return {}
        for d in documents:
            if d["dev"] in known.counters:
                known.counters[d["dev"]] = max(known.counters[d["dev"]], d["cs"])
        known.head = documents[-1]["seq"]
        now_s = asyncio.get_running_loop().time()
        for d in documents:
            known.ring.saw(d["dev"], d["_id"], now_s)
        return {(d["dev"], d["key"]): _earlier(d) for d in documents}

    async def refresh(self, name: ConversationId, known: Known) -> None:
        """Raise the head to the newest message a majority has."""
        known.head = max(known.head, await self._newest({"c": name}, "seq", known.head))

    async def count(
        self, name: ConversationId, known: Known, device: DeviceId, hint: int = 0
    ) -> None:
        """Raise the device's counter to the highest stored one. A good `hint` (the counter it
        is about to use) makes it cheap."""
        place, at = {"c": name, "dev": device}, known.counters.get(device, 0)
        newest = await self._newest(place, "cs", max(at, hint - 1) - 1)
        if not newest and hint - 1 > at:
            newest = await self._newest(place, "cs", at)
        known.counters[device] = max(known.counters.get(device, 0), newest)

    async def newest_counter(self, name: ConversationId, device: DeviceId) -> int:
        known = self._known.get(name)
        at = known.counters.get(device, 0) if known else 0
        return await self._newest({"c": name, "dev": device}, "cs", at - 1)

    async def earlier(
        self, name: ConversationId, device: DeviceId, keys: Iterable[MessageKey]
    ) -> dict[tuple[DeviceId, MessageKey], Earlier]:
        """The stored messages of these keys."""
        documents = await self._link.list(
            "messages", {"c": name, "dev": device, "key": {"$in": list(keys)}}, _SHOWN_EARLIER,
            bounded=False,
        )  # fmt: skip
        return {(device, d["key"]): _earlier(d) for d in documents}

    async def list(self, names: Iterable[ConversationId]) -> dict[ConversationId, Head]:
        """The heads that cover every acknowledged message, in two queries, whatever the number.

        The journals first: what is raised meanwhile is then found in the marks.
        """
        noted = await noted_heads(self._link)
        documents = await self._link.list(
            "conversations",
            {"_id": {"$in": list(set(names))}},
            {"epoch": 1, "head": 1, "floor": 1},
        )
        return {
            d["_id"]: Head(d["epoch"], max(d["head"], noted.get(d["_id"], 0)), d["floor"])
            for d in documents
        }

    async def _newest(self, place: dict[str, str], field: str, above: int) -> int:
        documents = await self._link.list(
            "messages", {**place, field: {"$gt": above}}, {"_id": 0, field: 1},
            sort=[(field, -1)], documents_max=1, bounded=False,
        )  # fmt: skip
        return int(documents[0][field]) if documents else 0


def _earlier(d: Document) -> Earlier:
    return Earlier(d["_id"], d["seq"], d["cs"], d["hash"], d["at"], d["purged_ms"])
