"""Who takes part in what, as this node knows it: cached, dropped on change, bounded in age."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from angarium.clock import Clock
from angarium.errors import AngariumError, Forbidden, NotMember, StaleDevices, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.limits import DEVICE_LISTS_MAX, ROSTER_AGE_S_MAX
from angarium.messaging.connection import Connection
from angarium.model.conversation import Conversation, Head
from angarium.model.device import Device, DeviceList
from angarium.storage.contract import Conversations, Directory

_LOADS_AT_ONCE = 256


class Live:
    """A conversation that some connection of this node follows. `head` never goes back."""

    __slots__ = ("conversation", "epoch", "floor", "head", "listeners")

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.epoch, self.head, self.floor = conversation.epoch, 0, 1
        self.listeners: dict[Connection, None] = {}

    def raise_head(self, head: Head) -> bool:
        """True when this is news: a later sequence, or another epoch."""
        if head.epoch != self.epoch:
            self.epoch, self.head, self.floor = head.epoch, head.sequence, head.floor
            return True
        self.floor = max(self.floor, head.floor)
        if head.sequence <= self.head:
            return False
        self.head = head.sequence
        return True

    def as_head(self) -> Head:
        return Head(self.epoch, self.head, self.floor)


class DeviceLists:
    """Device lists of users, read in batches. Dropped when a user's devices change."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._lists: OrderedDict[UserId, tuple[float, tuple[Device, ...]]] = OrderedDict()
        self._changes = 0
        self._changed: dict[UserId, int] = {}

    def drop(self, user: UserId) -> None:
        """The list of this user is outdated; so is what is being read of it now."""
        self._lists.pop(user, None)
        self._changes += 1
        if len(self._changed) >= DEVICE_LISTS_MAX:
            self._changed.clear()
            self._lists.clear()
        self._changed[user] = self._changes

    async def fetch(
        self, users: Iterable[UserId], *, fresh: bool = False
    ) -> dict[UserId, tuple[Device, ...]]:
        """The signed devices of each user, at most one query. Raises Unavailable."""
        wanted = set(users)
        oldest_s = self._clock.monotonic_s() - ROSTER_AGE_S_MAX
        found: dict[UserId, tuple[Device, ...]] = {}
        if not fresh:
            for user in wanted:
                cached = self._lists.get(user)
                if cached is not None and cached[0] >= oldest_s:
                    found[user] = cached[1]
        missing = sorted(wanted - found.keys())
        if missing:
            before = self._changes
            lists = await self._directory.lists(missing)
            for user in missing:
                devices = signed_devices(lists.get(user))
                found[user] = devices
                if self._changed.get(user, 0) <= before:
                    self._keep(user, devices)
        return found

    def _keep(self, user: UserId, devices: tuple[Device, ...]) -> None:
        self._lists[user] = (self._clock.monotonic_s(), devices)
        self._lists.move_to_end(user)
        if len(self._lists) > DEVICE_LISTS_MAX:
            self._lists.popitem(last=False)


def signed_devices(found: DeviceList | None) -> tuple[Device, ...]:
    """Only signed devices are sent to, and only they may connect."""
    return tuple(device for device in found.devices if device.signed) if found else ()


class Roster:
    """The participants of a conversation and all their signed devices, at one moment."""

    __slots__ = ("conversation", "devices", "loaded_s", "users")

    def __init__(
        self, conversation: Conversation, devices: Iterable[DeviceId], loaded_s: float
    ) -> None:
        self.conversation = conversation
        self.users = frozenset(participant.user for participant in conversation.participants)
        self.devices = frozenset(devices)
        self.loaded_s = loaded_s

    def check(self, user: UserId, device: DeviceId, to: Sequence[str]) -> AngariumError | None:
        """Why this user's device may not send to exactly these devices; None: it may."""
        if user not in self.users:
            return NotMember("this user does not take part in the conversation")
        devices = self.devices
        if device not in devices:
            return Forbidden("the device is not registered and signed for this user")
        if len(to) == len(devices) - 1 and device not in to and devices.issuperset(to):
            return None
        named, expected = set(to), devices - {device}
        if named == expected:
            return None
        return StaleDevices(sorted(expected - named), sorted(named - expected))


Answer = Roster | AngariumError
Loaded = Callable[[ConversationId, Answer], None]


class Rosters:
    """Rosters by conversation. `find` answers from memory, `want` reads in batches."""

    def __init__(
        self,
        *,
        conversations: Conversations,
        device_lists: DeviceLists,
        clock: Clock,
        loaded: Loaded,
    ) -> None:
        self._conversations, self._device_lists = conversations, device_lists
        self._clock, self._loaded = clock, loaded
        self._rosters: OrderedDict[ConversationId, Roster] = OrderedDict()
        self._of_user: dict[UserId, set[ConversationId]] = {}
        self._wanted: dict[ConversationId, None] = {}
        self._loading: set[ConversationId] = set()
        self._wake = asyncio.Event()

    def find(self, c: ConversationId) -> Roster | None:
        """The roster, unless unknown or too old."""
        roster = self._rosters.get(c)
        if roster is None:
            return None
        if self._clock.monotonic_s() - roster.loaded_s > ROSTER_AGE_S_MAX:
            self.drop(c)
            return None
        return roster

    def want(self, c: ConversationId) -> None:
        """Read it (again); `loaded` is called with what came of it."""
        self._wanted[c] = None
        self._wake.set()

    def drop(self, c: ConversationId) -> None:
        """Forget it; what is being read of it now is read once more."""
        roster = self._rosters.pop(c, None)
        if roster is not None:
            for user in roster.users:
                known = self._of_user.get(user)
                if known is not None:
                    known.discard(c)
                    if not known:
                        del self._of_user[user]
        if c in self._loading:
            self.want(c)

    def drop_user(self, user: UserId) -> None:
        """The user's devices changed: every roster with this user is outdated."""
        self._device_lists.drop(user)
        for c in list(self._of_user.get(user, ())):
            self.drop(c)
        for c in self._loading:
            self.want(c)

    async def run(self) -> None:
        """Read what is wanted, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                batch = list(self._wanted)[:_LOADS_AT_ONCE]
                for c in batch:
                    del self._wanted[c]
                self._loading = set(batch)
                answers = await self._load(batch)
                self._loading = set()
                for c, answer in answers.items():
                    if c not in self._wanted:
                        self._keep(c, answer)
                        self._loaded(c, answer)

    async def _load(self, batch: Sequence[ConversationId]) -> dict[ConversationId, Answer]:
        try:
            found = {c: await self._conversations.find(c) for c in batch}
            users = {
                participant.user
                for conversation in found.values()
                if conversation is not None
                for participant in conversation.participants
            }
            devices = await self._device_lists.fetch(users, fresh=True)
        except AngariumError as error:
            return dict.fromkeys(batch, error)
        except Exception:
            return dict.fromkeys(batch, Unavailable("the store failed"))
        now_s = self._clock.monotonic_s()
        return {
            c: NotMember("no such conversation, or not this user's")
            if conversation is None
            else Roster(
                conversation,
                (
                    device.id
                    for participant in conversation.participants
                    for device in devices[participant.user]
                ),
                now_s,
            )
            for c, conversation in found.items()
        }

    def _keep(self, c: ConversationId, answer: Answer) -> None:
        self.drop(c)
        if not isinstance(answer, Roster):
            return
        self._rosters[c] = answer
        for user in answer.users:
            self._of_user.setdefault(user, set()).add(c)
        if len(self._rosters) > DEVICE_LISTS_MAX:
            self.drop(next(iter(self._rosters)))
