"""The registry keeps in step with a cluster, on good days and bad ones."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from angarium.agents.agent import Agent
from angarium.agents.declared import Declared, Kubernetes
from angarium.agents.discovery.kube_api import KubeApi, token_reader
from angarium.agents.discovery.kubernetes import KubernetesDiscovery
from angarium.agents.discovery.shared import SharedSnapshot
from angarium.agents.registry import Registry
from angarium.bus.cache import LocalCache
from angarium.clock import ManualClock, SystemClock
from angarium.errors import Misconfigured
from angarium.limits import CACHE_VALUE_BYTES_MAX, SNAPSHOT_KEPT_S
from angarium.testing.fakes import FixedKeySealer
from angarium.testing.kubernetes import (
    FakeKubernetes,
    endpoint_slice,
    knative_service,
    plain_service,
    revision,
)

CARD = json.dumps(
    {
        "name": "ignored",
        "description": "Bills",
        "skills": [{"id": "pay", "examples": ["pay it"]}],
    }
)
SEEN_S = 1.0  # Issue 4: a change shows within a second.


def ksvc(name, /, **more):
    more = {"kind": "cloudevents", "description": f"does {name}", **more}
    return knative_service(name, f"http://{name}.agents.svc", **more)


class Cluster:
    """A fake API, and a registry that follows it."""

    def __init__(self, kube, registry, finder):
        self.kube, self.registry, self.finder = kube, registry, finder

    async def see(self, *names, within_s=SEEN_S):
        """Return when the registry holds exactly these."""
        async with asyncio.timeout(within_s):
            while self.registry.names != names:
                await self.registry.wait_changed(self.registry.version)

    async def watched(self, count=4):
        await self.moved(lambda: self.kube.watching >= count)

    async def moved(self, done, within_s=5.0):
        async with asyncio.timeout(within_s):
            while not done():
                self.kube.moved.clear()
                await self.kube.moved.wait()

    def one(self, name):
        found = self.registry.find(name)
        assert found is not None
        return found


@asynccontextmanager
async def following(kube, *, token=lambda: "", shared=None, agents=(), **declared):
    found = Kubernetes(url=kube.url, **declared)
    registry = Registry(Declared(tuple(agents), discovery=(found,)))
    api = KubeApi(kube.url, token=token)
    finder = KubernetesDiscovery(
        found, api, registry, SystemClock(), shared=shared, jitter=lambda: 0.0
    )
    task = asyncio.create_task(finder.run())
    try:
        yield Cluster(kube, registry, finder)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await finder.close()


async def until(done):
    """Within the second that a change may take; places change without the registry's word."""
    for _ in range(100):
        if done():
            return
        await asyncio.sleep(SEEN_S / 100)
    raise TimeoutError


def with_cluster(scenario, *objects, **more):
    async def run():
        async with FakeKubernetes() as kube:
            for kind, found in objects:
                kube.put(kind, found)
            async with following(kube, **more) as cluster:
                await scenario(cluster)

    asyncio.run(run())


KNATIVE, REVISIONS = FakeKubernetes.KNATIVE, FakeKubernetes.REVISIONS
SERVICES, SLICES = FakeKubernetes.SERVICES, FakeKubernetes.SLICES


@pytest.mark.slow
def test_services_that_come_change_and_go_show_within_a_second():
    async def scenario(cluster):
        await cluster.see("a", "b", within_s=5)
        await cluster.watched()

        cluster.kube.put(KNATIVE, ksvc("c"))
        await cluster.see("a", "b", "c")

        version = cluster.registry.version
        cluster.kube.put(KNATIVE, ksvc("b", description="does another thing"))
        async with asyncio.timeout(SEEN_S):
            await cluster.registry.wait_changed(version)
        assert cluster.one("b").description == "does another thing"

        cluster.kube.delete(KNATIVE, "a")
        await cluster.see("b", "c")

    with_cluster(scenario, (KNATIVE, ksvc("a")), (KNATIVE, ksvc("b")))


@pytest.mark.slow
def test_only_ready_services_are_agents():
    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        await cluster.watched()
        cluster.kube.put(KNATIVE, ksvc("b"))
        await cluster.see("a", "b")

        cluster.kube.put(KNATIVE, ksvc("a", ready=False))
        await cluster.see("b")

    with_cluster(scenario, (KNATIVE, ksvc("a")), (KNATIVE, ksvc("b", ready=False)))


def test_a_card_in_the_annotation_says_what_the_agent_does():
    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        agent = cluster.one("a")
        assert (agent.description, agent.terms.examples) == ("Bills", ("pay it",))
        assert agent.terms.skills[0].name == "pay"

    with_cluster(scenario, (KNATIVE, ksvc("a", description="", card=CARD)))


@pytest.mark.slow
def test_ready_endpoints_of_a_plain_service_are_its_instances():
    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        await cluster.watched()
        agent = cluster.one("a")
        assert [each["url"] for each in agent.places()] == [
            "http://10.0.0.1:8080",
            "http://10.0.0.2:8080",
        ]

        cluster.kube.put(SLICES, endpoint_slice("a", 8080, "10.0.0.2", "fd00::1"))
        await until(lambda: "fd00" in agent.places()[-1]["url"])
        assert cluster.one("a") is agent  # Moved, and the same for whoever routes.

        cluster.kube.put(SLICES, endpoint_slice("a", 8080, "10.0.0.2", ready=False))
        await cluster.see()

    with_cluster(
        scenario,
        (SERVICES, plain_service("a", kind="cloudevents")),
        (SLICES, endpoint_slice("a", 8080, "10.0.0.1", "10.0.0.2")),
    )


@pytest.mark.slow
def test_a_revision_at_zero_makes_its_agent_a_cold_one():
    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        await cluster.watched()
        assert [each["cold"] for each in cluster.one("a").places()] == [True]
        assert cluster.one("a").terms.first_event_s == 60

        cluster.kube.put(REVISIONS, revision("a", 2))
        await until(lambda: not cluster.one("a").places()[0]["cold"])

    with_cluster(scenario, (KNATIVE, ksvc("a")), (REVISIONS, revision("a", 0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble", ["disconnect", "expire", "garbage", "no version", "restart"]
)
def test_after_trouble_in_the_watch_nothing_stays_missed(trouble):
    async def scenario(cluster):
        kube = cluster.kube
        await cluster.see("a", within_s=5)
        await cluster.watched()
        if trouble == "disconnect":
            kube.disconnect()
        elif trouble == "expire":
            kube.expire()
        elif trouble == "garbage":
            kube.say(b'{"type": "ADDED", "object": [\n')
        elif trouble == "no version":
            kube.say(b'{"type": "ADDED", "object": {"metadata": {"name": "x"}}}\n')
        else:
            await kube.stop()
            kube.forget()  # It comes back and knows nothing of before.
            await kube.start()
        kube.put(KNATIVE, ksvc("b"))

        await cluster.see("a", "b", within_s=5)

        assert cluster.registry.names == ("a", "b")

    with_cluster(scenario, (KNATIVE, ksvc("a")))


@pytest.mark.slow
@pytest.mark.parametrize("mood", ["busy", "cut", "garbage", "forbidden"])
def test_while_the_api_is_away_what_was_found_stays_and_it_is_asked_with_pauses(mood):
    async def scenario(cluster):
        kube = cluster.kube
        await cluster.see("a", within_s=5)
        await cluster.watched()
        asked = len(kube.asked)
        kube.mood = mood
        kube.disconnect()
        await asyncio.sleep(1.0)
        assert cluster.registry.names == ("a",)
        assert 4 <= len(kube.asked) - asked <= 40
        assert cluster.finder.figures()["troubles"] == 4

        kube.put(KNATIVE, ksvc("b"))
        kube.mood = "well"
        await cluster.see("a", "b", within_s=10)

    with_cluster(scenario, (KNATIVE, ksvc("a")))


def test_until_everything_was_listed_nothing_is_taken_away():
    async def run():
        async with FakeKubernetes() as kube:
            kube.put(KNATIVE, ksvc("a"))
            kube.silent = {SLICES}
            async with following(kube) as cluster:
                cluster.registry.discover("kubernetes", [agent("kept")])
                await cluster.watched(3)  # The other kinds are known.
                await asyncio.sleep(0.1)
                assert cluster.registry.names == ("kept",)

    asyncio.run(run())


def agent(name):
    made = Agent(name, "")

    @made.on_turn
    async def answer(turn): ...

    return made


@pytest.mark.slow
def test_bookmarks_move_the_version_on_so_that_a_cut_watch_needs_no_new_list():
    async def scenario(cluster):
        kube = cluster.kube
        await cluster.see("a", within_s=5)
        await cluster.watched()
        lists = kube.count(watch=False)
        kube.bookmark()
        await asyncio.sleep(0.05)
        kube.forget()
        kube.disconnect()
        await asyncio.sleep(0.05)
        await cluster.watched()
        kube.put(KNATIVE, ksvc("b"))

        await cluster.see("a", "b", within_s=5)
        assert kube.count(watch=False) == lists

    with_cluster(scenario, (KNATIVE, ksvc("a")))


@pytest.mark.slow
def test_everything_is_listed_again_after_a_while_whatever_the_watches_say(monkeypatch):
    monkeypatch.setattr("angarium.agents.discovery.follower.KUBE_RELIST_S", 1.0)

    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        lists = cluster.kube.count(watch=False)
        await cluster.moved(lambda: cluster.kube.count(watch=False) >= lists + 4, 10)

    with_cluster(scenario, (KNATIVE, ksvc("a")))


@pytest.mark.slow
def test_where_watches_never_work_lists_are_asked_for_with_growing_pauses():
    async def run():
        async with FakeKubernetes() as kube:
            kube.put(KNATIVE, ksvc("a"))
            kube.watch_from = 10**9  # Whatever version is asked from, it is too old.
            async with following(kube) as cluster:
                await cluster.see("a", within_s=5)
                await asyncio.sleep(1.5)
                assert 8 <= kube.count(watch=False) <= 20  # Of four kinds.
                kube.put(KNATIVE, ksvc("b"))
                await cluster.see("a", "b", within_s=10)

    asyncio.run(run())


def test_a_cluster_without_knative_has_its_plain_services_found():
    async def run():
        async with FakeKubernetes() as kube:
            kube.kinds = [kube.SERVICES, kube.SLICES]
            kube.put(SERVICES, plain_service("a", 81, kind="openai", model="m"))
            async with following(kube) as cluster:
                await cluster.see("a", within_s=5)
                assert cluster.one("a").places()[0]["url"] == "http://a.agents.svc:81"

    asyncio.run(run())


def test_many_services_come_in_pages():
    objects = [(KNATIVE, ksvc(f"a{number:03}")) for number in range(450)]

    async def scenario(cluster):
        async with asyncio.timeout(10):
            while len(cluster.registry.names) < 450:
                await cluster.registry.wait_changed(cluster.registry.version)
        lists = [each for each in cluster.kube.asked if each.path == KNATIVE]
        assert len([each for each in lists if "watch" not in each.query]) == 3

    with_cluster(scenario, *objects)


@pytest.mark.slow
def test_the_token_is_read_anew_for_each_request(tmp_path):
    path = tmp_path / "token"
    path.write_text("old\n")

    async def scenario(cluster):
        kube = cluster.kube
        kube.tokens = {"old"}
        await cluster.see("a", within_s=5)
        await cluster.watched()
        kube.tokens = {"new"}
        kube.disconnect()
        await asyncio.sleep(0.3)
        path.write_text("new\n")
        kube.put(KNATIVE, ksvc("b"))
        await cluster.see("a", "b", within_s=10)

    with_cluster(scenario, (KNATIVE, ksvc("a")), token=token_reader(path))


def test_only_one_namespace_is_asked_for_when_one_is_named():
    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        assert all("/namespaces/agents/" in each.path for each in cluster.kube.asked)

    with_cluster(scenario, (KNATIVE, ksvc("a")), namespace="agents")


@pytest.mark.parametrize(
    ("name", "annotations", "problem"),
    [
        ("b", {"kind": "robot"}, "kind is one of"),
        ("b", {"card": "{"}, "card is no JSON"),
        ("b", {"card": "[1]"}, "no JSON object"),
        ("b", {"card": json.dumps({"x": "y" * 70_000})}, "too large"),
        ("b", {"name": "Not A Name"}, "lower-case letters"),
        ("b", {"name": "a"}, "'a' is taken"),
        ("b", {"kind": "openai"}, "model is missing"),
    ],
)
def test_one_that_makes_no_sense_is_left_out_with_a_sentence_and_the_others_stay(
    name, annotations, problem
):
    async def scenario(cluster):
        await cluster.see("a", within_s=5)
        assert problem in cluster.finder.problems[f"agents/{name}"]
        assert cluster.finder.figures()["left_out"] == 1

    with_cluster(scenario, (KNATIVE, ksvc("a")), (KNATIVE, ksvc(name, **annotations)))


def test_a_namespace_that_cannot_be_one_is_refused():
    api = KubeApi("http://127.0.0.1:1", token=lambda: "")
    with pytest.raises(Misconfigured, match="namespace"):
        KubernetesDiscovery(Kubernetes(namespace="a/b"), api, Registry([agent("a")]), None)
    asyncio.run(api.close())


def snapshot(cache, clock=None, key=bytes(32)):
    return SharedSnapshot(cache, FixedKeySealer(key), clock or SystemClock(), "kubernetes")


def test_a_node_that_starts_while_the_api_is_away_knows_what_others_found(monkeypatch):
    async def run():
        cache = LocalCache(SystemClock())
        async with FakeKubernetes() as kube:
            kube.put(KNATIVE, ksvc("a", card=CARD, description=""))
            async with following(kube, shared=snapshot(cache)) as first:
                await first.see("a", within_s=5)
                version = first.finder.version
                await asyncio.sleep(0)
            kube.mood = "busy"
            async with following(kube, shared=snapshot(cache)) as second:
                await second.see("a")
                await second.finder.wait_ready(1)
                assert second.finder.version == version
                assert second.one("a").terms.examples == ("pay it",)

                kube.mood = "well"
                kube.delete(KNATIVE, "a")
                await second.see(within_s=10)  # Its own list counts more.

    asyncio.run(run())


@pytest.mark.parametrize("trouble", ["none", "old", "foreign", "changed"])
def test_a_snapshot_that_is_old_or_not_ours_is_none(trouble):
    async def run():
        clock = ManualClock()
        cache = LocalCache(SystemClock())
        if trouble != "none":
            key = bytes([1]) * 32 if trouble == "foreign" else bytes(32)
            await snapshot(cache, clock, key).store([])
        if trouble == "old":
            clock.advance(SNAPSHOT_KEPT_S)
        if trouble == "changed":
            (name,) = cache._entries
            until_s, value = cache._entries[name]
            cache._entries[name] = (until_s, value[:-1] + bytes([value[-1] ^ 1]))

        assert await snapshot(cache, clock).load() is None

    asyncio.run(run())


def test_a_snapshot_of_any_size_comes_back_whole_and_unread():
    from angarium.agents.discovery.found import Found, FoundSkill

    async def run():
        import random

        cache, draw = LocalCache(SystemClock()), random.Random(1)
        words = tuple(f"{draw.getrandbits(400):x}" for _ in range(500))
        found = [
            Found(f"a{number}", "openai", f"x/{number}", skills=(FoundSkill("", words),))
            for number in range(8)
        ]
        await snapshot(cache).store(found)
        sizes = [len(value) for _, value in cache._entries.values()]
        assert len(sizes) > 1
        assert max(sizes) <= CACHE_VALUE_BYTES_MAX
        assert b"openai" not in b"".join(value for _, value in cache._entries.values())

        known = await snapshot(cache).load()
        assert known is not None
        assert list(known.found) == found

    asyncio.run(run())
