"""An A2A agent of the cluster: found without its card, described by it, asked where it runs."""

import asyncio

import pytest

from angarium.agents.agent import Agent
from angarium.agents.declared import Kubernetes
from angarium.agents.discovery.kube_api import KubeApi
from angarium.agents.discovery.kubernetes import KubernetesDiscovery
from angarium.clock import SystemClock
from angarium.testing.agents import AgentWorld
from angarium.testing.kubernetes import FakeKubernetes, knative_service, revision

from .a2a_peer import Peer

pytestmark = pytest.mark.slow
greeter = Agent("greeter", "Greets")


@greeter.on_turn
async def greet(turn):
    return "hello"


async def follow(kube, world, peer):
    """Discovery of the peer as a Knative service, with the registry of the world."""
    api = KubeApi(kube.url, token=lambda: "")
    finder = KubernetesDiscovery(
        Kubernetes(url=kube.url), api, world.registry, SystemClock(), jitter=lambda: 0.0
    )
    task = asyncio.create_task(finder.run())
    await finder.wait_ready(5)
    return finder, task


@pytest.mark.parametrize("replicas", [0, 1])
def test_its_card_is_read_when_it_runs_and_it_is_not_woken_for_it(replicas):
    async def scenario():
        async with (
            asyncio.timeout(60),
            FakeKubernetes() as kube,
            Peer() as peer,
            AgentWorld([greeter]) as world,
        ):
            kube.put(kube.REVISIONS, revision("echo", replicas))
            kube.put(kube.KNATIVE, knative_service("echo", peer.url))
            version = world.registry.version
            finder, task = await follow(kube, world, peer)
            try:
                await world.registry.wait_changed(version)
                if replicas:
                    while not world.registry.find("echo").terms.examples:
                        await world.registry.wait_changed(world.registry.version)
                    assert world.registry.find("echo").description == "A remote agent"
                    assert world.registry.find("echo").terms.first_event_s == 60
                else:
                    await asyncio.sleep(0.2)
                    assert peer.card_requests == []
                assert await world.say("@echo hello big world") == ["hello big world "]
                while not world.registry.find("echo").terms.examples:  # It runs now.
                    await world.registry.wait_changed(world.registry.version)
                assert world.warmer.warmth()["echo"].state == "warm"
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await finder.close()

    asyncio.run(scenario())
