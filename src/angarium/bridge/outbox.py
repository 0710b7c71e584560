"""Deliveries outward: gate, durable `sending`, one request, and the truth about its outcome."""

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakValueDictionary

import msgspec

from angarium.bridge.contacts import Card, Contacts
from angarium.bridge.policy import Denied, NotYet, Policy
from angarium.bridge.replies import OutgoingText, open_text, seal_text
from angarium.channels.contract import Channel, NotSent, Outgoing, Sent, StatusUpdate
from angarium.clock import Clock
from angarium.errors import AngariumError, Fenced, SealBroken, Unavailable
from angarium.ids import ConversationId, UserId
from angarium.kms.contract import Sealer
from angarium.limits import OUTBOX_ATTEMPTS
from angarium.storage.contract import (
    DELIVERY_FINAL,
    Delivery,
    DeliveryState,
    Fence,
    Outbox,
    PutDelivery,
    Vault,
)
from angarium.telemetry.log import get_logger

log = get_logger("angarium.bridge")

SENDS_AT_ONCE = 32  # Requests to the provider at a time; more deliveries wait in the store.
RECOVERED_AT_START = 10_000  # Interrupted deliveries looked for at start; others 60 s later.
SENDING_MS = 60_000  # A `sending` older than this, that nobody here works on, was interrupted.
LOOKUPS = 3  # Look-ups that find nothing before an unknown outcome counts as not sent.
LOOKUP_AFTER_MS = 5_000  # Times 3 for each look-up before.
BACKOFF_MS = 2_000  # Times 2 for each attempt before.
BACKOFF_MS_MAX = 300_000
UNREACHED_AFTER_MS = 15_000  # No connection: costs no attempt, ends with OUTBOX_KEPT_S.
ALARM_PAUSE_S = 60.0  # After an error of settings or account nothing is sent for so long.

_RANK = {"pending": 0, "sending": 1, "unknown": 1, "sent": 2, "delivered": 3, "read": 4}
_MEANS: dict[str, DeliveryState] = {
    "accepted": "sent", "queued": "sent", "sending": "sent", "sent": "sent",
    "delivered": "delivered", "read": "read", "failed": "failed",
}  # fmt: skip


class OutboxWorker:
    """Sends what is due, never two at once to one contact, and follows what became of it.

    `fence` gives the held lease; `read` is called when a contact has read a message; `count`
    takes the name of what happened, for metrics; `wake` is called when more may be due.
    """

    def __init__(
        self,
        *,
        channel: Channel,
        outbox: Outbox,
        vault: Vault,
        sealer: Sealer,
        contacts: Contacts,
        policy: Policy,
        clock: Clock,
        fence: Callable[[], Fence],
        read: Callable[[UserId, ConversationId, int], None],
        count: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._channel, self._outbox, self._vault = channel, outbox, vault
        self._sealer, self._contacts, self._policy = sealer, contacts, policy
        self._clock, self._fence, self._read = clock, fence, read
        self._count, self._wake = count, wake
        self._in_flight: set[UserId] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._paused_until_s = float("-inf")
        self.alarm = ""  # The provider's code that stopped sending; empty when all is well.
        self.delivered_ms = 0  # When a contact was last known to have received something.

    async def recover(self) -> None:
        """At start, before anything is sent: what a dead owner left in `sending` is unknown."""
        until_ms = self._clock.now_ms() + SENDING_MS
        for delivery in await self._outbox.list_due(
            self._channel.name, until_ms, RECOVERED_AT_START
        ):
            if delivery.state == "sending":
                await self._interrupted(delivery)

    async def work(self, group: asyncio.TaskGroup) -> int:
        """Start sending what is due, as tasks of `group`; returns how many were started."""
        if self._clock.monotonic_s() < self._paused_until_s:
            return 0
        room = SENDS_AT_ONCE - len(self._in_flight)
        if room <= 0:
            return 0
        due = await self._outbox.list_due(
            self._channel.name, self._clock.now_ms(), SENDS_AT_ONCE
        )
        started = [d for d in due if d.contact not in self._in_flight][:room]
        for delivery in started:
            self._in_flight.add(delivery.contact)
            group.create_task(self._attend(delivery))
        return len(started)

    async def apply(self, update: StatusUpdate) -> bool:
        """Take a status report in; False when it is about nothing of ours. Statuses only move
        forward; those of an attempt that has failed are past. Raises Fenced, Unavailable."""
        found = await self._find(update)
        if found is None:
            return False
        async with self._lock(found.id):
            delivery = await self._outbox.find(found.id) or found
            content = open_text(self._sealer, delivery)
            if update.provider_id in content.failed or delivery.provider_id not in (
                "",
                update.provider_id,
            ):
                self._count("status_past")
                return True
            await self._follow(delivery, content, update)
        return True

    # --- one delivery ---

    async def _attend(self, delivery: Delivery) -> None:
        try:
            await self._step(delivery)
            self._wake()  # The contact's next delivery may leave now.
        except Fenced:
            raise
        except AngariumError as error:
            self._count(f"outbox_{error.code}")  # It stays as stored and is due again.
        except Exception as error:
            # A defect with one delivery must not stop all others: it stays as stored, and what
            # was being sent counts as unknown later. Where, but not what was said.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where, reason = f"{frame.name}:{frame.lineno}", type(error).__name__
            log.error("bridge.delivery_failed", reason=reason, where=where)
            self._count("outbox_defect")
        finally:
            self._in_flight.discard(delivery.contact)

    async def _step(self, delivery: Delivery) -> None:
        try:
            if delivery.state == "sending":
                await self._interrupted(delivery)
            elif delivery.state == "unknown":
                await self._resolve(delivery)
            else:
                await self._send(delivery)
        except (SealBroken, msgspec.DecodeError):
            await self._write(delivery, "failed", reason="seal_broken")

    async def _interrupted(self, delivery: Delivery) -> None:
        async with self._lock(delivery.id):
            current = await self._outbox.find(delivery.id)
            if current is not None and current.state == "sending":
                await self._write(current, "unknown", reason="interrupted", after_ms=0)

    async def _send(self, delivery: Delivery) -> None:
        content = open_text(self._sealer, delivery)
        card = await self._contacts.find(delivery.contact)
        if not await self._may_leave(delivery, content, card) or card is None:
            return
        content = msgspec.structs.replace(
            content, since_ms=content.since_ms or self._clock.now_ms(), lookups=0
        )
        async with self._lock(delivery.id):
            current = await self._outbox.find(delivery.id)
            if current is None or current.state != "pending":
                return  # A status report came first: it had been sent after all.
            attempt = replace(current, attempts=current.attempts + 1)
            sending = await self._write(attempt, "sending", content, after_ms=SENDING_MS)
        outcome = await self._channel.send(self._outgoing(sending, content, card))
        async with self._lock(delivery.id):
            current = await self._outbox.find(delivery.id) or sending
            if current.state == "sending":
                await self._settle(current, content, outcome)

    async def _may_leave(
        self, delivery: Delivery, content: OutgoingText, card: Card | None
    ) -> bool:
        now_ms = self._clock.now_ms()
        if now_ms >= delivery.expires_ms:
            await self._write(delivery, "expired", reason="too_late")
            return False
        if card is None or not (card.phone or card.bsuid or card.parent):
            await self._write(delivery, "refused", reason="no_address")
            return False
        judgement = self._policy.judge(
            card.standing(), sender=card.business, contact=delivery.contact, now_ms=now_ms,
            monotonic_s=self._clock.monotonic_s(), notice=content.notice,
        )  # fmt: skip
        if isinstance(judgement, Denied):
            await self._write(delivery, "refused", reason=judgement.reason)
        elif isinstance(judgement, NotYet):
            await self._write(
                delivery, "pending", reason=judgement.reason, after_ms=judgement.after_ms
            )
        else:
            return True
        return False

    async def _settle(
        self, delivery: Delivery, content: OutgoingText, outcome: Sent | NotSent
    ) -> None:
        if isinstance(outcome, Sent):
            self.alarm = ""
            await self._write(delivery, "sent", provider_id=outcome.provider_id)
        elif outcome.verdict == "unknown":
            wait_ms = max(LOOKUP_AFTER_MS, outcome.after_ms)
            await self._write(delivery, "unknown", reason=outcome.code, after_ms=wait_ms)
        elif not outcome.reached:
            wait_ms = max(UNREACHED_AFTER_MS, outcome.after_ms)
            free = replace(delivery, attempts=delivery.attempts - 1)
            await self._write(free, "pending", reason=outcome.code, after_ms=wait_ms)
        else:
            await self._not_sent(
                delivery, content, outcome.verdict, outcome.code, outcome.after_ms
            )

    async def _not_sent(
        self,
        delivery: Delivery,
        content: OutgoingText,
        verdict: str,
        code: str,
        after_ms: int = 0,
    ) -> None:
        if verdict == "alarm":
            self.alarm = code
            self._paused_until_s = self._clock.monotonic_s() + ALARM_PAUSE_S
            wait_ms = round(ALARM_PAUSE_S * 1000)
            free = replace(delivery, attempts=max(0, delivery.attempts - 1))
            await self._write(free, "pending", content, reason=code, after_ms=wait_ms)
        elif verdict == "retry" and delivery.attempts < OUTBOX_ATTEMPTS:
            wait_ms = max(after_ms, min(BACKOFF_MS << delivery.attempts, BACKOFF_MS_MAX))
            await self._write(delivery, "pending", content, reason=code, after_ms=wait_ms)
        elif verdict == "template":
            await self._write(delivery, "refused", reason=f"window_closed:{code}")
        else:
            await self._write(delivery, "failed", content, reason=code)

    async def _resolve(self, delivery: Delivery) -> None:
        """An unknown outcome: found at the provider, or surely not there, or left unsent."""
        content = open_text(self._sealer, delivery)
        card = await self._contacts.find(delivery.contact)
        others = await self._outbox.list_of(delivery.contact)
        known = {other.provider_id for other in others if other.id != delivery.id}
        try:
            found = card and await self._channel.find_sent(
                self._outgoing(delivery, content, card),
                content.since_ms,
                known | set(content.failed),
            )
        except Unavailable as error:
            if self._clock.now_ms() >= delivery.expires_ms:
                await self._after_lookup(delivery, "failed", reason="outcome_unknown")
                return
            wait_ms = max(LOOKUP_AFTER_MS, error.after_ms)
            await self._after_lookup(delivery, "unknown", after_ms=wait_ms)
            return
        if isinstance(found, Sent):
            update = StatusUpdate(found.provider_id, "accepted", delivery=delivery.id)
            await self.apply(update)
        elif content.lookups + 1 < LOOKUPS:
            wait_ms = LOOKUP_AFTER_MS * 3 ** (content.lookups + 1)
            content = msgspec.structs.replace(content, lookups=content.lookups + 1)
            await self._after_lookup(delivery, "unknown", content, after_ms=wait_ms)
        elif delivery.attempts >= OUTBOX_ATTEMPTS:
            await self._after_lookup(delivery, "failed", reason="outcome_unknown")
        else:
            await self._after_lookup(delivery, "pending", reason="not_at_provider", after_ms=0)

    async def _after_lookup(
        self,
        delivery: Delivery,
        state: DeliveryState,
        content: OutgoingText | None = None,
        reason: str = "",
        after_ms: int = 0,
    ) -> None:
        async with self._lock(delivery.id):
            current = await self._outbox.find(delivery.id)
            if current is not None and current.state == "unknown":
                await self._write(
                    current, state, content, reason=reason or current.reason, after_ms=after_ms
                )

    # --- statuses ---

    async def _find(self, update: StatusUpdate) -> Delivery | None:
        if update.delivery:
            found = await self._outbox.find(update.delivery)
            return found if found is not None and found.channel == self._channel.name else None
        return await self._outbox.find_by_provider_id(self._channel.name, update.provider_id)

    async def _follow(
        self, delivery: Delivery, content: OutgoingText, update: StatusUpdate
    ) -> None:
        state = _MEANS[update.status]
        rank = _RANK.get(delivery.state, 9)
        if state == "failed":
            if rank >= _RANK["delivered"]:
                return
            content = msgspec.structs.replace(
                content, failed=(*content.failed, update.provider_id), since_ms=0
            )
            forgotten = replace(delivery, provider_id="")
            code = update.error_code or "failed"
            await self._not_sent(forgotten, content, update.verdict, code)
            return
        if _RANK[state] <= rank:
            return
        await self._write(delivery, state, reason="", provider_id=update.provider_id)
        if state in ("delivered", "read"):
            self.delivered_ms = max(self.delivered_ms, self._clock.now_ms())
        if state == "read" and content.conversation:
            self._read(delivery.contact, ConversationId(content.conversation), content.sequence)

    # --- what is common ---

    def _outgoing(self, delivery: Delivery, content: OutgoingText, card: Card) -> Outgoing:
        return Outgoing(delivery.id, card.address(), card.business, content.text)

    async def _write(
        self,
        delivery: Delivery,
        state: DeliveryState,
        content: OutgoingText | None = None,
        *,
        reason: str = "",
        after_ms: int = 0,
        provider_id: str = "",
    ) -> Delivery:
        now_ms = self._clock.now_ms()
        written = replace(
            delivery, state=state, reason=reason, updated_ms=now_ms, due_ms=now_ms + after_ms,
            provider_id=provider_id or delivery.provider_id,
            body=seal_text(self._sealer, delivery.id, content) if content else delivery.body,
        )  # fmt: skip
        await self._vault.write([PutDelivery(written)], self._fence())
        if state in DELIVERY_FINAL or state != delivery.state:
            self._count(f"delivery_{state}")
        return written

    def _lock(self, delivery: str) -> asyncio.Lock:
        lock = self._locks.get(delivery)
        if lock is None:
            lock = self._locks[delivery] = asyncio.Lock()
        return lock
