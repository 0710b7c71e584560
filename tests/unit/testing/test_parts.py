"""The smaller parts of a simulated world: the bus, a device's storage, plans, the command."""

import asyncio

import pytest

from angarium.bus.contract import DevicesChanged, Event
from angarium.errors import Conflict, Unavailable
from angarium.ids import DeviceId, UserId
from angarium.storage.contract import DropRecord, PutRecord, PutTurn, Turn
from angarium.testing.simulation.air import Air, BusWeather
from angarium.testing.simulation.loop import Process, VirtualLoop, dice, run
from angarium.testing.simulation.plan import GATEWAY, make_plan
from angarium.testing.simulation.run import Summary
from angarium.testing.simulation.vault import MemoryVault
from angarium.testing.simulation.world import Outcome


def hear(weather: BusWeather, batches: int = 200) -> list[int]:
    """How many of the batches two nodes hear, the sender and another."""

    async def scenario(loop: VirtualLoop) -> list[int]:
        air = Air(loop, weather, dice(1, "bus"))
        heard: list[list[Event]] = [[], []]
        ports = [air.port(Process(f"node{n}")) for n in range(2)]
        for port, events in zip(ports, heard, strict=True):
            port.subscribe(events.extend)
        for _ in range(batches):
            ports[0].publish([DevicesChanged(UserId("@anna:angarium"))])
        await asyncio.sleep(10)
        return [len(events) for events in heard]

    return run(1, scenario)


def test_a_healthy_bus_reaches_every_node_the_sender_too() -> None:
    assert hear(BusWeather()) == [200, 200]


def test_a_bad_bus_drops_and_doubles() -> None:
    assert all(80 < heard < 160 for heard in hear(BusWeather(drop=0.4)))
    assert all(heard > 220 for heard in hear(BusWeather(double=0.3)))
    assert hear(BusWeather(drop=1.0)) == [0, 0]


def test_a_dead_node_neither_says_nor_hears() -> None:
    async def scenario(loop: VirtualLoop) -> int:
        air, heard = Air(loop, BusWeather(), dice(1, "bus")), list[Event]()
        living, dead = Process("living"), Process("dead")
        port, other = air.port(living), air.port(dead)
        port.subscribe(heard.extend)
        other.subscribe(heard.extend)
        loop.kill(dead)
        other.publish([DevicesChanged(UserId("@anna:angarium"))])
        port.publish([DevicesChanged(UserId("@ben:angarium"))])
        await asyncio.sleep(10)
        return len(heard)

    assert run(1, scenario) == 1


def test_a_write_to_a_devices_storage_is_all_or_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        vault = MemoryVault()
        await vault.write([PutRecord("s", "a", b"1", expect_rev=0), PutRecord("s", "b", b"2")])
        with pytest.raises(Conflict):
            await vault.write([DropRecord("s", "b"), PutRecord("s", "a", b"3", expect_rev=0)])
        turn = Turn("c", 1, DeviceId("DEVICE1"), "offered", b"")  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await vault.write([DropRecord("s", "a"), PutTurn(turn)])
        await vault.write([PutRecord("s", "a", b"4", expect_rev=1)])
        found = [(record.key, record.rev, record.blob) for record in await vault.read("s")]
        assert found == [("a", 2, b"4"), ("b", 1, b"2")]

    run(1, scenario)


def test_a_plan_follows_from_its_seed_and_covers_what_can_happen() -> None:
    plans = [make_plan(seed) for seed in range(200)]

    assert plans == [make_plan(seed) for seed in range(200)]
    assert {plan.nodes for plan in plans} == {1, 2, 3}
    assert any(plan.pauses for plan in plans)
    assert any(plan.real_olm for plan in plans)
    assert {plan.doorbells_dropped for plan in plans} == {0.0, 0.3, 1.0}
    targets = {crash.target for plan in plans for crash in plan.crashes}
    assert {"node0", "gateway", "ANNA0001", "ANNA0002"} <= targets
    for plan in plans:
        assert any(GATEWAY in users for users in plan.conversations)
        assert len({line.text for line in plan.utterances}) == len(plan.utterances) >= 10


def test_a_failed_seed_is_told_with_the_command_that_replays_it() -> None:
    summary = Summary()
    summary.add(Outcome(1, [], {"crashes": 2}))
    summary.add(Outcome(7, ["I2 a hole"], {"crashes": 1}))

    told = summary.describe()

    assert "2 seeds" in told
    assert "crashes 3" in told
    assert "seed 7: I2 a hole" in told
    assert "--seed 7 --verbose" in told
