"""Agents that run in a Kubernetes cluster, as services of Knative or of Kubernetes itself."""

import asyncio
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from angarium.agents.contract import AgentKind, Skill
from angarium.agents.declared import Kubernetes
from angarium.agents.discovery.follower import Follower, Jitter
from angarium.agents.discovery.found import (
    Found,
    Knative,
    Plain,
    Slice,
    read_knative,
    read_revision,
    read_service,
    read_slice,
    with_instances,
    with_warmth,
)
from angarium.agents.discovery.kube_api import KubeApi
from angarium.agents.discovery.shared import SharedSnapshot, version_of
from angarium.agents.kinds.instances import Instances
from angarium.agents.named import KINDS, load_kind
from angarium.agents.registry import Registry
from angarium.agents.terms import TermOptions, check_name, make_terms
from angarium.clock import Clock
from angarium.errors import AngariumError, Misconfigured
from angarium.limits import (
    COLD_FIRST_EVENT_S,
    COLD_TURN_S,
    KUBE_JOIN_S,
    KUBE_RELIST_S,
    KUBE_RETRY_MAX_S,
)

SERVING = "serving.knative.dev/v1"
SLICES = "discovery.k8s.io/v1"
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_log = logging.getLogger(__name__)


class KubernetesDiscovery:
    """Keeps the registry in step with a cluster, in the background.

    What is ready is in the registry within a second; everything is listed again at least every
    five minutes. While the API is away, what was found last stays. `run` owns all its tasks.
    """

    def __init__(
        self,
        declared: Kubernetes,
        api: KubeApi,
        registry: Registry,
        clock: Clock,
        *,
        shared: SharedSnapshot | None = None,
        source: str = "kubernetes",
        jitter: Jitter = random.random,
    ) -> None:
        """Raises Misconfigured for a namespace that cannot be one."""
        if declared.namespace and not _NAMESPACE.fullmatch(declared.namespace):
            raise Misconfigured(f"[discovery.kubernetes] namespace {declared.namespace!r}")
        self._declared, self._api, self._registry = declared, api, registry
        self._clock, self._shared, self.source = clock, shared, source
        self._jitter = jitter
        self._news = asyncio.Event()
        self._ready = asyncio.Event()
        self._followers: list[Follower[Any]] = []
        self._made: dict[str, tuple[Found, Instances]] = {}
        self._agents: list[AgentKind] = []
        self.problems: dict[str, str] = {}
        self.version = ""
        selector = declared.selector
        self._knative = self._follow(f"/apis/{SERVING}", "services", selector, read_knative)
        self._revisions = self._follow(
            f"/apis/{SERVING}", "revisions", "serving.knative.dev/service", read_revision
        )
        self._services = self._follow("/api/v1", "services", selector, read_service)
        self._slices = self._follow(f"/apis/{SLICES}", "endpointslices", selector, read_slice)
        if "knative" in declared.kinds:
            self._followers += [self._knative, self._revisions]
        if "service" in declared.kinds:
            self._followers += [self._services, self._slices]

    async def run(self) -> None:
        """Until cancelled. What other nodes found serves until the API has answered."""
        await self._begin()
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for follower in self._followers:
                        tasks.create_task(follower.run())
                    tasks.create_task(self._publish())
            except ExceptionGroup as group:
                # A bug of ours; agents that were found are still there.
                names = ", ".join(type(error).__name__ for error in group.exceptions)
                _log.error("discovery begins again after %s", names)
                await asyncio.sleep(KUBE_RETRY_MAX_S)

    async def wait_ready(self, wait_s: float) -> None:
        """Return when something is known: from the API or from another node; or after
        `wait_s`."""
        try:
            async with asyncio.timeout(wait_s):
                await self._ready.wait()
        except TimeoutError:
            _log.warning("discovery has found nothing yet; the node serves without")

    async def close(self) -> None:
        await self._api.close()

    def figures(self) -> dict[str, int]:
        """For metrics: agents found, those left out, whole listings made, kinds of objects
        that cannot be followed just now."""
        return {
            "found": len(self._agents),
            "left_out": len(self.problems),
            "listings": sum(each.listings for each in self._followers),
            "troubles": sum(bool(each.problem) for each in self._followers),
        }

    def places(self, name: str) -> list[dict[str, Any]]:
        """The instances of an agent of ours; none for another's."""
        for found, instances in self._made.values():
            if found.name == name and instances in self._agents:
                return instances.places()
        return []

    # --- find ---------------------------------------------------------------------------------

    def _follow(self, group: str, kind: str, selector: str, read: Any) -> Follower[Any]:
        within = f"/namespaces/{self._declared.namespace}" if self._declared.namespace else ""
        path = f"{group}{within}/{kind}"
        return Follower(
            self._api, path, selector, read, self._news.set, self._clock, self._jitter
        )

    async def _begin(self) -> None:
        known = await self._shared.load() if self._shared is not None else None
        if known is not None and known.found:
            self._become(known.found)
            self._ready.set()

    async def _publish(self) -> None:
        while True:
            try:
                async with asyncio.timeout(KUBE_RELIST_S):
                    await self._news.wait()
            except TimeoutError:
                pass  # Nothing is new; the shared snapshot is to live on.
            await asyncio.sleep(KUBE_JOIN_S)
            self._news.clear()
            # Half a picture would take away agents that only were not listed yet.
            if all(each.listed.is_set() for each in self._followers):
                found = self.find()
                self._become(found)
                self._ready.set()
                if self._shared is not None:
                    await self._shared.store(found)

    def find(self) -> list[Found]:
        """What the followers know now, put together, in order."""
        found: list[Found | None] = []
        for (namespace, _), service in self._knative.known.items():
            one: Knative = service
            replicas = self._revisions.known.get((namespace, one.revision))
            found.append(with_warmth(one, replicas))
        slices: dict[tuple[str, str], list[Slice]] = {}
        for (namespace, _), each in self._slices.known.items():
            slices.setdefault((namespace, each.service), []).append(each)
        for key, service in self._services.known.items():
            plain: Plain = service
            found.append(with_instances(plain, slices.get(key, ())))
        return sorted(filter(None, found), key=lambda each: each.origin)

    # --- become -------------------------------------------------------------------------------

    def _become(self, found: Sequence[Found]) -> None:
        """Make agents of what was found; those that only move keep their object."""
        self.version = version_of(found)
        made: dict[str, tuple[Found, Instances]] = {}
        problems: dict[str, str] = {}
        names: set[str] = set()
        for each in found:
            try:
                if each.problem:
                    raise Misconfigured(each.problem)
                if each.name in names:
                    raise Misconfigured(f"the name {each.name!r} is taken")
                made[each.origin] = self._make(each)
                names.add(each.name)
            except AngariumError as error:
                problems[each.origin] = str(error)
        for origin in problems.keys() - self.problems.keys():
            _log.warning("the agent of %s is left out: %s", origin, problems[origin])
        self._made, self.problems = made, problems
        agents: list[AgentKind] = [instances for _, instances in made.values()]
        if agents != self._agents:
            self._agents = agents
            self._registry.discover(self.source, agents)

    def _make(self, found: Found) -> tuple[Found, Instances]:
        apart = replace(found, spots=())
        cold = {spot.url: spot.cold for spot in found.spots}
        before, instances = self._made.get(found.origin, (None, None))
        if before != apart or instances is None:
            check_name(found.name)
            instances = Instances(
                found.name,
                found.description,
                make_terms(_terms(found)),
                make=lambda url: make_kind(found, url),
                clock=self._clock,
                of=found.kind,
                learnt=self._registry.refresh,
            )
        instances.place(cold)
        return apart, instances


def make_kind(found: Found, url: str) -> AgentKind:
    """The agent at one place. Raises Misconfigured, also where an extra is missing."""
    make = load_kind(KINDS[found.kind])
    place = url.rstrip("/") + (f"/{found.path.lstrip('/')}" if found.path else "")
    terms = _terms(found)
    match found.kind:
        case "openai":
            if not found.model:
                raise Misconfigured("angarium.dev/model is missing")
            base = place if found.path else f"{place}/v1"
            return make(
                found.name, found.description, base_url=base, model=found.model, **terms
            )
        case "cloudevents":
            return make(found.name, found.description, url=place, **terms)
        case _:
            hosts = (url, *found.hosts)
            return make(found.name, place, found.description, hosts=hosts, **terms)


def _terms(found: Found) -> TermOptions:
    skills = [Skill(each.name, each.examples, each.description) for each in found.skills]
    terms = TermOptions(skills=skills, channels=found.channels)
    if found.scales_to_zero:
        terms["first_event_s"], terms["timeout_s"] = COLD_FIRST_EVENT_S, COLD_TURN_S
    return terms
