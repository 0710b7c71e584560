"""Keeps in step with one kind of object of a Kubernetes cluster: list, watch, list again."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from angarium.agents.discovery.kube_api import Change, KubeApi, Object, TooOld
from angarium.clock import Clock
from angarium.errors import AngariumError, BadReply, Forbidden, NotFound
from angarium.limits import (
    KUBE_RELIST_S,
    KUBE_RETRY_MAX_S,
    KUBE_RETRY_MIN_S,
    KUBE_REWATCHES,
    KUBE_WATCH_S,
    KUBE_WATCH_S_MIN,
)

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace and name."""
Jitter = Callable[[], float]
_log = logging.getLogger(__name__)


class Follower(Generic[T]):
    """What `read` makes of every object that a selector takes; None leaves an object out.

    While the API is away the last known state stays. `listed` is set when it was seen whole
    for the first time, or is not to be had: `problem` says why, then.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        selector: str,
        read: Callable[[Object], T | None],
        changed: Callable[[], None],
        clock: Clock,
        jitter: Jitter = random.random,
    ) -> None:
        self._api, self._path, self._selector = api, path, selector
        self._read, self._changed = read, changed
        self._clock, self._jitter = clock, jitter
        self._version = ""
        self._due_s = 0.0
        self.known: dict[Key, T] = {}
        self.listed = asyncio.Event()
        self.problem = ""
        self.listings = 0

    async def run(self) -> None:
        """Keep in step until cancelled; raises nothing of the API's making."""
        failures = 0
        while True:
            lively = False
            try:
                if failures > KUBE_REWATCHES or self._clock.monotonic_s() >= self._due_s:
                    await self._list()
                lively = await self._watch()
            except TooOld:
                self._due_s = 0.0
            except AngariumError as error:
                self._say(error)
                if isinstance(error, BadReply):
                    self._due_s = 0.0  # Nobody knows what was missed.
                if isinstance(error, NotFound | Forbidden):
                    self.listed.set()
                    self._changed()
            # Lists that work and watches that do not are asked for less and less often, too.
            failures = 0 if lively else failures + 1
            if not lively:
                await asyncio.sleep(self._pause_s(failures))

    async def _list(self) -> None:
        listing = await self._api.list(self._path, self._selector)
        self._version = listing.version
        share = 1.0 - self._jitter() / 5  # Nodes that started together do not ask together.
        self._due_s = self._clock.monotonic_s() + KUBE_RELIST_S * share
        found = {
            key: kept for key, kept in map(self._keep, listing.objects) if kept is not None
        }
        self.listings += 1
        self.problem = ""
        if found != self.known or not self.listed.is_set():
            self.known = found
            self.listed.set()
            self._changed()

    async def _watch(self) -> bool:
        """One watch, to its end. Whether it lasted as a watch does."""
        began_s = self._clock.monotonic_s()
        watch_s = max(1, min(KUBE_WATCH_S, round(self._due_s - began_s)))
        changes = self._api.watch(self._path, self._selector, self._version, watch_s)
        async with aclosing(changes):
            async for change in changes:
                self._apply(change)
        return self._clock.monotonic_s() - began_s >= min(KUBE_WATCH_S_MIN, watch_s / 2)

    def _apply(self, change: Change) -> None:
        metadata = change.object.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not isinstance(version, str) or not version:
            raise BadReply("the Kubernetes API gave an object without a version")
        if change.kind in ("ADDED", "MODIFIED", "DELETED"):
            key, kept = self._keep(change.object)
            before = self.known.get(key)
            if change.kind == "DELETED" or kept is None:
                self.known.pop(key, None)
            else:
                self.known[key] = kept
            if self.known.get(key) != before:
                self._changed()
        self._version = version

    def _keep(self, found: Object) -> tuple[Key, T | None]:
        metadata = found.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            raise BadReply("the Kubernetes API gave an object without a name")
        key = (str(metadata.get("namespace") or ""), metadata["name"])
        return key, self._read(found)

    def _say(self, error: AngariumError) -> None:
        if self.problem != error.code:
            _log.warning("discovery waits: %s", error)
        self.problem = error.code

    def _pause_s(self, failures: int) -> float:
        if self.problem == NotFound.code:  # Knative is not installed here, say.
            return KUBE_RELIST_S * (1.0 - self._jitter() / 5)
        longest_s = min(KUBE_RETRY_MAX_S, KUBE_RETRY_MIN_S * 2.0 ** min(failures - 1, 16))
        return longest_s * (0.5 + self._jitter() / 2)
