"""Stored webhooks inward: each contact's messages in order, each submitted once."""

import asyncio
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from angarium.bridge.connections import Connections
from angarium.bridge.contacts import Contact, Contacts
from angarium.bridge.identity import identifiers, inbound_key, notice_id
from angarium.bridge.outbox import OutboxWorker
from angarium.bridge.policy import TokenBucket
from angarium.bridge.replies import OutgoingText, new_delivery, seal_text
from angarium.channels.contract import Channel, ChannelEvent, Inbound, StatusUpdate
from angarium.channels.whatsapp import opt_wish
from angarium.clock import Clock
from angarium.e2ee.body import Body
from angarium.errors import AngariumError, Fenced, SealBroken, StoreUnwritable, Unavailable
from angarium.ids import UserId
from angarium.kms.contract import Sealer
from angarium.limits import RATE_PER_MINUTE
from angarium.model.webhook import unpack_webhook, webhook_place
from angarium.storage.contract import Fence, Vault, WebhookEntry, WebhookInbox
from angarium.telemetry.log import get_logger

log = get_logger("angarium.bridge")

ENTRIES_AT_ONCE = 128  # Webhooks read from the inbox at a time.
CONTACTS_AT_ONCE = 32  # Contacts worked for at a time; others wait their turn.
# Tried so often and for so long; then a dead letter: kept, shown to operators. A store that is
# away does not count: that is nobody's fault and passes.
ENTRY_ATTEMPTS = 8
ENTRY_TRIED_S = 600.0
RETRY_S_MAX = 60.0
BUCKETS_MAX = 20_000  # Contacts whose rate is remembered; over it all are forgotten.

STOPPED = "You will get no more messages here. Write START to talk again."
STARTED = "Welcome back. You can write to us here again."
NOT_READABLE = "Sorry, this kind of message cannot be read here yet. Please write it as text."
TOO_FAST = "You are writing faster than can be read here. Please wait a minute and write again."


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored webhook and the events in it."""

    entry: WebhookEntry
    events: Sequence[ChannelEvent]

    def names(self) -> list[str]:
        """What tells its contacts apart; a webhook without any stands for itself."""
        named = [
            "/".join(identifier)
            for event in self.events
            if isinstance(event, Inbound)
            for identifier in identifiers(event.contact)
        ]
        return named or [f"entry/{self.entry.id}"]


def lanes_of(opened: Sequence[Opened]) -> list[list[Opened]]:
    """Webhooks that share a contact are in one lane, in order; lanes may run side by side."""
    lane_of: dict[str, list[Opened]] = {}
    for one in opened:
        lane = [one]
        for name in one.names():
            other = lane_of.get(name)
            if other is not None and other is not lane:
                merged = sorted([*other, *lane], key=lambda each: each.entry.id)
                for key in [
                    key for key, kept in lane_of.items() if kept is other or kept is lane
                ]:
                    lane_of[key] = merged
                lane = merged
        lane_of.update({name: lane for name in one.names()})
    return list({id(lane): lane for lane in lane_of.values()}.values())


class InboundWorker:
    """Works the inbox off. Any step may be repeated: keys come from the provider's ids."""

    def __init__(
        self,
        *,
        channel: Channel,
        inbox: WebhookInbox,
        vault: Vault,
        sealer: Sealer,
        contacts: Contacts,
        connections: Connections,
        outbox: OutboxWorker,
        clock: Clock,
        fence: Callable[[], Fence],
        count: Callable[[str], None],
        arrived: Callable[[], None],
        rate_per_minute: int = RATE_PER_MINUTE,
    ) -> None:
        self._channel, self._inbox, self._vault, self._sealer = channel, inbox, vault, sealer
        self._contacts, self._connections, self._outbox = contacts, connections, outbox
        self._clock, self._fence = clock, fence
        self._count, self._arrived = count, arrived
        self._rate = rate_per_minute
        self._buckets: dict[UserId, TokenBucket] = {}
        self._not_before: dict[int, float] = {}  # By entry; no more than are open.
        self.received_ms = 0  # When a contact's message last came in.

    async def work(self) -> int:
        """One pass over the inbox; returns how many entries were finished. Raises Fenced."""
        entries = await self._inbox.list_open(self._channel.name, ENTRIES_AT_ONCE)
        opened = [one for entry in entries if (one := await self._open(entry)) is not None]
        gate = asyncio.Semaphore(CONTACTS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._lane(lane, gate)) for lane in lanes_of(opened)]
        return sum(task.result() for task in tasks)

    async def _open(self, entry: WebhookEntry) -> Opened | None:
        place = webhook_place(entry.channel, entry.event)
        try:
            raw = unpack_webhook(self._sealer.unseal(entry.raw, place))
            return Opened(entry, self._channel.parse(raw.url, raw.body))
        except (SealBroken, msgspec.DecodeError):
            await self._inbox.fail(entry.id, "seal_broken", give_up=True)
            self._count("webhook_dead")
            return None

    async def _lane(self, lane: Sequence[Opened], gate: asyncio.Semaphore) -> int:
        """The entries of one lane, until one of them cannot be done now."""
        done = 0
        async with gate:
            for opened in lane:
                if not await self._try(opened):
                    break
                done += 1
        return done

    async def _try(self, opened: Opened) -> bool:
        entry = opened.entry
        if self._not_before.get(entry.id, 0.0) > self._clock.monotonic_s():
            return False
        try:
            outcomes = [await self._take(event, entry.received_ms) for event in opened.events]
            await self._inbox.finish(entry.id, ",".join(dict.fromkeys(outcomes)) or "empty")
        except Fenced:
            raise
        except (Unavailable, StoreUnwritable) as error:
            self._count(f"inbound_{error.code}")
            return False
        except Exception as error:
            # Whatever it is, one webhook must not stop the others: counted, then a dead letter.
            reason = error.code if isinstance(error, AngariumError) else type(error).__name__
            # Where, but not what was said: a traceback shows values, and those are people's.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.name}:{frame.lineno}"
            log.warning("bridge.webhook_failed", entry=entry.id, reason=reason, where=where)
            return await self._failed(entry, reason)
        self._not_before.pop(entry.id, None)
        self._count("webhook_done")
        return True

    async def _failed(self, entry: WebhookEntry, reason: str) -> bool:
        """Count it and wait longer each time; True when it is given up."""
        age_s = (self._clock.now_ms() - entry.received_ms) / 1000
        give_up = entry.attempts + 1 >= ENTRY_ATTEMPTS and age_s >= ENTRY_TRIED_S
        await self._inbox.fail(entry.id, reason, give_up)
        self._count("webhook_dead" if give_up else f"inbound_{reason}")
        if give_up:
            self._not_before.pop(entry.id, None)
        else:
            wait_s = min(2.0**entry.attempts, RETRY_S_MAX)
            self._not_before[entry.id] = self._clock.monotonic_s() + wait_s
        return give_up

    async def _take(self, event: ChannelEvent, received_ms: int) -> str:
        if isinstance(event, StatusUpdate):
            return event.status if await self._outbox.apply(event) else "not_ours"
        if not identifiers(event.contact):
            return "unsupported"
        contact = await self._contacts.recognise(event.contact, self._fence())
        return await self._message(event, await self._seen(contact, event, received_ms))

    async def _seen(self, contact: Contact, event: Inbound, received_ms: int) -> Contact:
        """Note that the contact wrote: it opens the window, and shows where to answer from."""
        card = contact.card
        if card.last_message == event.id:
            return contact
        wish = opt_wish(event.text) if event.kind == "text" else None
        card = msgspec.structs.replace(
            card,
            name=event.profile_name or card.name,
            business=event.business or card.business,
            wrote_at_ms=max(card.wrote_at_ms, event.sent_ms or received_ms),
            last_message=event.id,
            opted_out=wish == "stop" or (card.opted_out and wish != "start"),
        )
        seen = Contact(contact.user, card)
        await self._contacts.keep(seen, self._fence())
        self.received_ms = self._clock.now_ms()
        return seen

    async def _message(self, event: Inbound, contact: Contact) -> str:
        wish = opt_wish(event.text) if event.kind == "text" else None
        if wish == "stop":
            return await self._notice(event, contact, "stopped", STOPPED)
        if wish == "start" and event.text.strip().casefold() == "start":
            return await self._notice(event, contact, "started", STARTED)
        if event.kind == "unsupported":
            return await self._notice(event, contact, "unsupported", NOT_READABLE)
        if not self._within_rate(contact.user):
            # Told once a minute: an answer to each message would be a flood of our own.
            about = f"{contact.user}/{self._clock.now_ms() // 60_000}"
            return await self._notice(event, contact, "rate_limited", TOO_FAST, about)
        line = await self._connections.open(contact.user, event.id)
        body = Body(
            text=shown_text(event), name=contact.card.name, via=self._channel.name,
        )  # fmt: skip
        key = inbound_key(self._channel.name, event.id)
        try:
            await line.endpoint.submit(line.conversation, body, key)
        except AngariumError:
            await self._connections.lost(contact.user)
            raise
        return "submitted"

    async def _notice(
        self, event: Inbound, contact: Contact, kind: str, text: str, about: str = ""
    ) -> str:
        """The bridge's own answer, in front of whatever else waits for this contact: one for
        each thing it is `about` (default: the message). Only what answers an opt-out word may
        reach somebody who opted out."""
        name = notice_id(self._channel.name, about or event.id, kind)
        words = kind in ("stopped", "started")
        body = seal_text(self._sealer, name, OutgoingText(text, notice=words))
        put = new_delivery(
            name, self._channel.name, contact.user, 0, body, self._clock.now_ms()
        )
        await self._vault.write([replace(put, only_new=True)], self._fence())
        self._arrived()
        return kind

    def _within_rate(self, user: UserId) -> bool:
        now_s = self._clock.monotonic_s()
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.clear()
        if user not in self._buckets:
            self._buckets[user] = TokenBucket(self._rate, self._rate / 60, now_s)
        if self._buckets[user].wait_s(now_s) > 0:
            return False
        self._buckets[user].take()
        return True


def shown_text(event: Inbound) -> str:
    """The message as text; what cannot be carried yet is named, never dropped in silence."""
    notes = [f"[{media.content_type.partition('/')[0] or 'file'}]" for media in event.media]
    if event.location is not None:
        latitude, longitude = event.location
        label = ", ".join(
            str(event.raw[key]) for key in ("Label", "Address") if event.raw.get(key)
        )
        notes.append(f"[location {latitude:g}, {longitude:g}{': ' + label if label else ''}]")
    text = event.text or event.button
    return " ".join([*notes, text]).strip()
