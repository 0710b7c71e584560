"""Hellos that come faster than they can be worked on."""

import asyncio
from typing import Any

import pytest

from angarium.ids import DeviceId
from angarium.messaging import greeting
from angarium.protocol.frames import Welcome

from .relay import ANN, Relay, ScriptedDevice, on_relay


class SlowLists:
    """Conversations of a store that takes its time to list them."""

    def __init__(self, inner: Any, list_s: float) -> None:
        self._inner, self._list_s = inner, list_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def lists_of(self, users: Any) -> Any:
        await asyncio.sleep(self._list_s)
        return await self._inner.lists_of(users)


async def crowd(relay: Relay, list_s: float, count: int) -> list[ScriptedDevice]:
    """A node on a slow store, and so many devices that said hello to it in turn."""
    relay.engine = type(relay.engine)()
    slow = SlowLists(relay.store.conversations, list_s)
    await relay.node(engine=relay.engine, conversations=slow)
    devices = [DeviceId(f"CROWD{n}") for n in range(count)]
    await relay.enrol(ANN, *devices)
    return [await relay.connect(ANN, device) for device in devices]


def sent_away(crowded: list[ScriptedDevice]) -> list[tuple[int, str] | None]:
    return [each.link.closed for each in crowded]


def test_more_hellos_than_may_wait_are_sent_away_and_told_when_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(greeting, "HELLOS_AT_ONCE", 1)
    monkeypatch.setattr(greeting, "HELLOS_WAITING", 2)

    async def scenario(relay: Relay) -> None:
        crowded = await crowd(relay, 0.1, 5)
        away = (4013, "unavailable after_ms=2000")
        assert sent_away(crowded) == [None, None, None, away, away]
        await asyncio.sleep(1.0)
        assert [len(each.of(Welcome)) for each in crowded] == [1, 1, 1, 0, 0]

    on_relay(scenario)


def test_a_hello_whose_turn_would_come_too_late_is_sent_away_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(greeting, "HELLOS_AT_ONCE", 1)

    async def scenario(relay: Relay) -> None:
        crowded = await crowd(relay, 2.0, 1)
        await asyncio.sleep(2.0)
        crowded += [await relay.connect(ANN, DeviceId("CROWD0")) for _ in range(4)]
        assert sent_away(crowded[1:]) == [None, None, None, (4013, "unavailable after_ms=6000")]

        await asyncio.sleep(10.0)
        later = await relay.connect(ANN, DeviceId("CROWD0"))
        assert later.link.closed is None

    on_relay(scenario)
