"""The connection registry in Redis: every step is one script over one key."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from angarium.bus.redis_link import REDIS_FAILS, RedisLink
from angarium.bus.registry import Holder, OnLost
from angarium.clock import Clock
from angarium.errors import Unavailable
from angarium.ids import DeviceId, UserId
from angarium.limits import (
    NODE_LEASE_S,
    REGISTRY_AT_ONCE,
    REGISTRY_ENDED_MAX,
    REGISTRY_KEPT_S,
    REGISTRY_REFRESH_S,
)
from angarium.resilience import cancellable


def _script(name: str) -> str:
    return (Path(__file__).parent / f"registry_{name}.lua").read_text(encoding="utf-8")


class RedisRegistry:
    """Implements `Registry`. The link belongs to the caller.

    `<namespace>:conn:{<user>}` maps a device to `epoch|node`; `<namespace>:nodes` keeps nodes
    by the end of their lease, in the server's time. Epochs are microseconds of the server's
    clock, or one more than the entry they replace. What was lost is written again by `renew`,
    from this node's memory.
    """

    def __init__(
        self,
        link: RedisLink,
        node: str,
        clock: Clock,
        *,
        namespace: str = "angarium",
        lease_s: float = NODE_LEASE_S,
        on_lost: OnLost = lambda nodes: None,
    ) -> None:
        self._link, self._node, self._clock = link, node, clock
        self._namespace, self._lease_ms = namespace, round(lease_s * 1000)
        self._on_lost = on_lost
        self._own: dict[DeviceId, tuple[UserId, int]] = {}
        self._ended: dict[DeviceId, tuple[UserId, int]] = {}
        self._known: set[str] = set()
        self._refresh_due_s = clock.monotonic_s() + REGISTRY_REFRESH_S
        self._missing = False
        self._turns = asyncio.Semaphore(REGISTRY_AT_ONCE)
        self._take, self._put = _script("take"), _script("put")
        self._drop, self._lease = _script("drop"), _script("lease")

    async def take(self, user: UserId, device: DeviceId) -> int:
        found = await self._run(self._take, user, device, self._node, REGISTRY_KEPT_S)
        epoch = int(found)
        known = self._own.get(device)
        # Two connections of a device may be answered in the wrong order.
        if known is None or known[1] < epoch:
            self._own[device] = (user, epoch)
        return epoch

    async def drop(self, user: UserId, device: DeviceId, epoch: int) -> None:
        if self._own.get(device) == (user, epoch):
            del self._own[device]
        self._ended[device] = (user, epoch)  # Until Redis has heard it.
        if len(self._ended) > REGISTRY_ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        await self._run(self._drop, user, device, epoch)
        if self._ended.get(device) == (user, epoch):
            del self._ended[device]

    async def find(self, user: UserId) -> dict[DeviceId, Holder]:
        live = await self.nodes()
        held = await self._ask(self._link.client.hgetall, self._key(user))
        found = {DeviceId(device.decode()): _holder(value) for device, value in held.items()}
        return {device: holder for device, holder in found.items() if holder.node in live}

    async def nodes(self) -> set[str]:
        return (await self._renewed(""))[1]

    async def renew(self) -> None:
        ran, live = await self._renewed(self._node)
        lost, self._known = self._known - live, live
        # When the table itself was lost, nobody has renewed yet: that says nothing of others.
        if lost and ran:
            self._on_lost(lost)
        now_s = self._clock.monotonic_s()
        self._missing |= not ran
        if self._missing or now_s >= self._refresh_due_s:
            await _each(self._write_again, self._own)
            self._missing = False
            self._refresh_due_s = now_s + REGISTRY_REFRESH_S
        await _each(self.drop, self._ended)

    async def release(self) -> None:
        await self._ask(self._link.client.zrem, self._nodes_key, self._node)

    async def _renewed(self, node: str) -> tuple[bool, set[str]]:
        ran, live = await self._ask(
            self._link.script, self._lease, self._nodes_key, node, self._lease_ms
        )
        return bool(ran), {name.decode() for name in live}

    async def _write_again(self, user: UserId, device: DeviceId, epoch: int) -> None:
        if self._own.get(device) != (user, epoch):
            return  # It ended meanwhile.
        await self._run(self._put, user, device, self._node, epoch, REGISTRY_KEPT_S)
        if self._own.get(device) != (user, epoch):
            await self._run(self._drop, user, device, epoch)

    async def _run(self, script: str, user: UserId, *arguments: str | int) -> Any:
        return await self._ask(self._link.script, script, self._key(user), *arguments)

    async def _ask(self, call: Callable[..., Awaitable[Any]], *arguments: str | int) -> Any:
        async with self._turns:
            try:
                return await cancellable(call(*arguments))
            except REDIS_FAILS as error:
                raise Unavailable("redis does not answer") from error

    def _key(self, user: UserId) -> str:
        return f"{self._namespace}:conn:{{{user}}}"

    @property
    def _nodes_key(self) -> str:
        return f"{self._namespace}:nodes"


def _holder(value: bytes) -> Holder:
    epoch, _, node = value.decode().partition("|")
    return Holder(node, int(epoch))


async def _each(
    call: Callable[[UserId, DeviceId, int], Awaitable[None]],
    entries: Mapping[DeviceId, tuple[UserId, int]],
) -> None:
    """For each entry, some at once. Raises what one of them raised."""
    known = list(entries.items())
    for at in range(0, len(known), REGISTRY_AT_ONCE):
        calls = [
            call(user, device, epoch)
            for device, (user, epoch) in known[at : at + REGISTRY_AT_ONCE]
        ]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if outcome is not None:
                raise outcome
