"""One channel's bridge: stored webhooks in, deliveries out, by whoever holds its lease."""

import asyncio
from collections.abc import Awaitable, Callable

from angarium.bridge.connections import Connections, MakeEndpoint
from angarium.bridge.contacts import Contacts
from angarium.bridge.inbound import InboundWorker
from angarium.bridge.outbox import OutboxWorker
from angarium.bridge.policy import Policy
from angarium.channels.contract import Channel
from angarium.clock import Clock
from angarium.errors import AngariumError, Fenced, LeaseTaken
from angarium.ids import ConversationId, UserId
from angarium.kms.contract import Sealer
from angarium.limits import (
    CONTACT_CONNECTIONS_MAX,
    CONTACT_IDLE_S,
    LEASE_LOOK_S,
    RATE_PER_MINUTE,
)
from angarium.storage.contract import Fence, Leases, Outbox, Vault, WebhookInbox
from angarium.storage.tenure import Tenure

LOOK_EVERY_S = 1.0  # How long a forgotten wake-up can delay anything.
LOOK_EVERY_S_MAX = 30.0  # After failures, doubling.
WEBHOOKS_KEPT_S = 8 * 24 * 3600  # Finished ones are remembered so long, against repeats.
FORGET_EVERY_S = 3600.0
TYPING_WAITING_MAX = 256  # Indicators waiting to be shown; more are not shown.


def _ignore(_: str) -> None:
    return None


class Bridge:
    """Carries messages between a channel's contacts and the gateway.

    `owner` names this process in the lease. `count` takes the name of each thing that happened,
    for metrics. `run` works until it is cancelled; `work_inbox` and `work_outbox` do one pass.
    """

    def __init__(
        self,
        *,
        channel: Channel,
        webhooks: WebhookInbox,
        outbox: Outbox,
        vault: Vault,
        leases: Leases,
        make_endpoint: MakeEndpoint,
        sealer: Sealer,
        contacts: Contacts,
        policy: Policy,
        clock: Clock,
        gateway_user: UserId,
        owner: str,
        count: Callable[[str], None] = _ignore,
        rate_per_minute: int = RATE_PER_MINUTE,
        connections_max: int = CONTACT_CONNECTIONS_MAX,
        idle_s: float = CONTACT_IDLE_S,
    ) -> None:
        self._channel, self._clock = channel, clock
        self._tenure = Tenure(leases, clock, name=f"bridge/{channel.name}", owner=owner)
        self._count, self._webhooks = count, webhooks
        self._look_in, self._look_out = asyncio.Event(), asyncio.Event()
        self._typing: asyncio.Queue[str] = asyncio.Queue(TYPING_WAITING_MAX)
        self.connections = Connections(
            channel=channel.name, chars_max=channel.text_chars_max, make_endpoint=make_endpoint,
            gateway_user=gateway_user, vault=vault, sealer=sealer, clock=clock,
            fence=self._held, arrived=self._look_out.set, typing=self._want_typing,
            connections_max=connections_max, idle_s=idle_s,
        )  # fmt: skip
        self.outbox = OutboxWorker(
            channel=channel, outbox=outbox, vault=vault, sealer=sealer, contacts=contacts,
            policy=policy, clock=clock, fence=self._held, read=self._mark_read, count=count,
            wake=self._look_out.set,
        )  # fmt: skip
        self.inbound = InboundWorker(
            channel=channel, inbox=webhooks, vault=vault, sealer=sealer, contacts=contacts,
            connections=self.connections, outbox=self.outbox, clock=clock, fence=self._held,
            count=count, arrived=self._look_out.set, rate_per_minute=rate_per_minute,
        )  # fmt: skip

    @property
    def working(self) -> bool:
        """Whether this process holds the lease."""
        return self._tenure.fence is not None

    @property
    def standby(self) -> bool:
        """Whether another process works, and this one waits."""
        return self._tenure.standby

    @property
    def fence(self) -> Fence:
        """Proof of the lease, for the writes of contacts' devices. Raises Fenced."""
        return self._held()

    def wake(self) -> None:
        """A webhook was stored: look now."""
        self._look_in.set()

    async def run(self) -> None:
        """Take the lease when it is free, then work until cancelled. Losing the lease stops the
        work at once and starts over."""
        while True:
            await self._take_lease()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._tenure.keep())
                    group.create_task(self._work())
            except* Fenced:
                self._count("lease_lost")
            finally:
                await self._stop()

    async def start(self) -> None:
        """Take the lease and settle what a dead owner left; `run` does. Raises LeaseTaken."""
        await self._tenure.take()
        await self.outbox.recover()

    async def work_inbox(self) -> int:
        """One pass over stored webhooks; returns how many were finished."""
        return await self.inbound.work()

    async def work_outbox(self) -> int:
        """Send what is due now and wait for it; returns how many were tried."""
        async with asyncio.TaskGroup() as group:
            return await self.outbox.work(group)

    async def close(self) -> None:
        """Close contacts' devices and free the lease; for users of `start`."""
        await self._stop()

    # --- loops ---

    async def _take_lease(self) -> None:
        while True:
            try:
                await self.start()
                return
            except LeaseTaken:
                await asyncio.sleep(LEASE_LOOK_S)
            except AngariumError as error:
                self._count(f"bridge_{error.code}")
                await asyncio.sleep(LOOK_EVERY_S)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reopen())
            group.create_task(self._each(self._look_in, self.work_inbox))
            group.create_task(self._each(self._look_out, lambda: self._send_due(group)))
            group.create_task(self._each(asyncio.Event(), self.connections.close_idle))
            group.create_task(self._each(asyncio.Event(), self.connections.mend))
            group.create_task(self._show_typing())
            group.create_task(self._forget())

    async def _send_due(self, group: asyncio.TaskGroup) -> int:
        await self.outbox.work(group)
        return 0  # Each delivery that got further wakes this loop again; a failed one waits.

    async def _each(self, look: asyncio.Event, work: Callable[[], Awaitable[int]]) -> None:
        wait_s = LOOK_EVERY_S
        while True:
            look.clear()
            try:
                done = await work()
                wait_s = LOOK_EVERY_S
            except Fenced:
                raise
            except AngariumError as error:
                self._count(f"bridge_{error.code}")
                done, wait_s = 0, min(wait_s * 2, LOOK_EVERY_S_MAX)
            if done:
                continue
            try:
                async with asyncio.timeout(wait_s):
                    await look.wait()
            except TimeoutError:
                pass

    async def _reopen(self) -> None:
        try:
            await self.connections.reopen()
        except Fenced:
            raise
        except AngariumError as error:
            self._count(f"bridge_{error.code}")

    async def _forget(self) -> None:
        while True:
            before_ms = self._clock.now_ms() - WEBHOOKS_KEPT_S * 1000
            try:
                await self._webhooks.forget(before_ms)
            except AngariumError as error:
                self._count(f"bridge_{error.code}")
            await asyncio.sleep(FORGET_EVERY_S)

    async def _show_typing(self) -> None:
        while True:
            await self._channel.show_typing(await self._typing.get())

    async def _stop(self) -> None:
        await self.connections.close()
        await self._tenure.leave()

    # --- small things others call ---

    def _held(self) -> Fence:
        if self._tenure.fence is None:
            raise Fenced("this process does not hold the bridge's lease")
        return self._tenure.fence

    def _want_typing(self, message: str) -> None:
        try:
            self._typing.put_nowait(message)
        except asyncio.QueueFull:
            pass

    def _mark_read(self, contact: UserId, conversation: ConversationId, sequence: int) -> None:
        line = self.connections.get(contact)
        if line is not None:
            line.endpoint.mark_read(conversation, sequence)
