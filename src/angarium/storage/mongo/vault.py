"""Sealed records, turns and deliveries over MongoDB: one ordered list of writes, a prefix of
which survives a crash.

No write goes through over anything but what it has seen (see steps.py), so none lands late. A
fence is checked before the first part, against what a newer owner has written at each part, and
again before the write is acknowledged: an acknowledged write was made before any newer owner
held the lease, so that owner's reads have seen it. ADR 0015 says what follows.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pymongo import UpdateOne

from angarium.errors import Conflict, Fenced, Unavailable
from angarium.limits import APPEND_ATTEMPTS, MONGO_RACE_S, MONGO_STATES_CACHED
from angarium.storage.contract import Fence, Record, Write
from angarium.storage.mongo.faults import AlreadyThere
from angarium.storage.mongo.guards import ALL_GUARDS, Guards
from angarium.storage.mongo.link import Document, Link
from angarium.storage.mongo.steps import SEEN_FIELDS, Seen, Spot, Step, seen_of, step_of


@dataclass(frozen=True, slots=True)
class _Planned:
    """A step on its way. `after`: what its document is once it has gone through."""

    step: Step
    request: UpdateOne
    after: Seen


@dataclass(frozen=True, slots=True)
class MongoVault:
    """See storage.contract.Vault. A write is applied in order; a crash leaves a prefix."""

    link: Link
    guards: Guards = ALL_GUARDS
    _seen: OrderedDict[Spot, Seen] = field(default_factory=OrderedDict)

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        wanted: Document = {"scope": scope, "dropped_at": None}
        if prefix:
            # A range, not a pattern: no letter of a key is a wildcard.
            wanted["key"] = {"$gte": prefix, "$lte": f"{prefix}\U0010ffff"}
        found = await self.link.list("records", wanted, sort=[("key", 1)])
        for each in found:
            self._remember(("records", scope, each["key"]), seen_of(each))
        return [
            Record(scope, each["key"], each["rev"], each["blob"])
            for each in found
            if each["key"].startswith(prefix)
        ]

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        held = fence if self.guards.fencing else None
        if held is not None:
            await self._check(held)
        steps = [step_of(write, held) for write in writes]
        done, lost = 0, 0
        while done < len(steps):
            run = await self._plan(steps[done:])
            applied = await self._send(run)
            for each in run[:applied]:
                self._remember(each.step.spot, each.after)
            done += applied
            if applied < len(run):
                if await self._was_ours(steps[done:]):
                    done += 1
                elif (lost := lost + 1) > APPEND_ATTEMPTS:
                    raise Unavailable("too many writers at one record", after_ms=200)
                else:
                    await asyncio.sleep(MONGO_RACE_S * lost * self.link.jitter())
        if held is not None:
            await self._check(held)

    async def _check(self, fence: Fence) -> None:
        found = await self.link.find("leases", {"_id": fence.lease}, {"epoch": 1})
        if found is None or found["epoch"] != fence.epoch:
            raise Fenced("a newer owner holds the lease")

    async def _plan(self, steps: Sequence[Step]) -> list[_Planned]:
        """As many of the steps as one request can carry. Raises Fenced and Conflict when that
        is none, because of what the first one has met."""
        await self._look(
            step for step in steps if not step.only_new and step.spot not in self._seen
        )
        run: list[_Planned] = []
        ahead: dict[Spot, Seen] = {}
        for step in steps:
            if run and step.collection != run[0].step.collection:
                break
            seen = ahead.get(step.spot) or self._seen.get(step.spot, Seen())
            try:
                step.check(seen)
            except (Fenced, Conflict):
                if run:
                    break  # First what comes before it.
                await self._look([step])  # What is remembered may be old.
                seen = self._seen.get(step.spot, Seen())
                step.check(seen)
            request = step.request(seen, late_writes=self.guards.late_writes)
            ahead[step.spot] = step.after(seen)
            run.append(_Planned(step, request, ahead[step.spot]))
        return run

    async def _send(self, run: list[_Planned]) -> int:
        """How many went through, in order; the next one's document was not as it was seen."""
        requests = [each.request for each in run]
        collection = self.link[run[0].step.collection]
        try:
            await self.link.call(lambda: collection.bulk_write(requests, ordered=True))
        except AlreadyThere as met:
            return met.index
        return len(run)

    async def _was_ours(self, steps: Sequence[Step]) -> bool:
        """Whether the first step has gone through before: its answer was lost."""
        spot = steps[0].spot
        await self._look(steps[:1])
        token = self._seen[spot].token
        return token in [step.token for step in steps if step.spot == spot]

    async def _look(self, steps: Iterable[Step]) -> None:
        """See the documents of these steps anew."""
        wanted: dict[tuple[str, ...], dict[Spot, Document]] = {}
        for step in steps:
            together = step.spot[:1] if len(step.place) == 1 else step.spot[:2]
            wanted.setdefault(together, {})[step.spot] = step.place
        await asyncio.gather(
            *(self._see(name, places) for (name, *_), places in wanted.items())
        )

    async def _see(self, collection: str, places: dict[Spot, Document]) -> None:
        *shared, own = next(iter(places.values()))
        query: Document = {own: {"$in": [place[own] for place in places.values()]}}
        for name in shared:
            query[name] = next(iter(places.values()))[name]
        found = await self.link.list(collection, query, {**SEEN_FIELDS, own: 1})
        there = {document[own]: document for document in found}
        for spot, place in places.items():
            self._remember(spot, seen_of(there.get(place[own])))

    def _remember(self, spot: Spot, seen: Seen) -> None:
        self._seen[spot] = seen
        self._seen.move_to_end(spot)
        while len(self._seen) > MONGO_STATES_CACHED:
            self._seen.popitem(last=False)
