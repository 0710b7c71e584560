"""Simulated links: in order or not at all, and every fault can happen."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from angarium.testing.simulation.loop import Process, VirtualLoop, dice, run
from angarium.testing.simulation.network import Link, Network, Weather


class Held:
    """A connected pair that notes what arrives."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.client, self.node = Process("client"), Process("node")
        self.at_node: list[bytes] = []
        self.at_client: list[bytes] = []
        self.closed: list[tuple[str, int]] = []

    async def connect(self) -> Link:
        link = await self.network.connect(self.client, self.node, self._accept)
        link.client.on_message = self.at_client.append
        link.client.on_close = lambda code, reason: self.closed.append(("client", code))
        return link

    def _accept(self, link: Link) -> None:
        link.server.on_message = self.at_node.append
        link.server.on_close = lambda code, reason: self.closed.append(("node", code))


def play(weather: Weather, scenario: Callable[[Held], Awaitable[None]], seed: int = 1) -> Held:
    async def whole(loop: VirtualLoop) -> Held:
        held = Held(Network(loop, weather, dice(seed, "network")))
        await scenario(held)
        await asyncio.sleep(30)
        return held

    return run(seed, whole)


async def send_fifty(held: Held) -> None:
    link = await held.connect()
    for n in range(50):
        link.client.send(bytes([n]))
        link.server.send(bytes([n]))
        await asyncio.sleep(0.01)


def test_a_healthy_link_carries_everything_in_order() -> None:
    held = play(Weather(), send_fifty)

    assert held.at_node == held.at_client == [bytes([n]) for n in range(50)]
    assert held.closed == []


@pytest.mark.parametrize("seed", range(10))
def test_what_arrives_over_a_breaking_link_is_a_prefix_and_both_ends_learn(seed: int) -> None:
    held = play(Weather(cut=0.05, slow=0.1), send_fifty, seed)

    whole = [bytes([n]) for n in range(50)]
    assert held.at_node == whole[: len(held.at_node)]
    assert held.at_client == whole[: len(held.at_client)]
    assert sorted(end for end, _ in held.closed) == ["client", "node"]


def test_a_half_open_link_loses_one_direction_and_tells_nobody() -> None:
    held = play(Weather(half_open=0.05), send_fifty)

    assert min(len(held.at_node), len(held.at_client)) < 50
    assert held.closed == []


def test_an_orderly_close_comes_after_what_was_sent() -> None:
    async def scenario(held: Held) -> None:
        link = await held.connect()
        link.client.send(b"last words")
        link.client.close(1000, "bye")

    held = play(Weather(), scenario)

    assert held.at_node == [b"last words"]
    assert held.closed == [("node", 1000)]


def test_the_other_end_of_a_killed_process_learns_of_it() -> None:
    async def scenario(held: Held) -> None:
        link = await held.connect()
        held.network.loop.kill(held.node)
        link.server.send(b"from the dead")

    held = play(Weather(), scenario)

    assert held.at_client == []
    assert held.closed == [("client", 1006)]


def test_a_dead_node_refuses() -> None:
    async def scenario(held: Held) -> None:
        held.network.loop.kill(held.node)
        with pytest.raises(ConnectionRefusedError):
            await held.connect()

    play(Weather(), scenario)
