"""The bus carries doorbells between nodes. It may lose them; the store is the log."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from angarium.ids import ConversationId, DeviceId, UserId
from angarium.model.message import StoredMessage


@dataclass(frozen=True, slots=True)
class Appended:
    """`conversation` has a message `sequence`; participants' nodes should look.

    `messages` are those that were just stored, for all their devices, where they are small: who
    hears them need not read them. A doorbell without them says no less.
    """

    conversation: ConversationId
    epoch: int
    sequence: int
    users: tuple[UserId, ...]
    messages: tuple[StoredMessage, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """Typing, presence, a receipt or a streamed part: encoded frame, one chance, no store.

    `device` names one recipient device; None means every device of `users`.
    """

    conversation: ConversationId
    users: tuple[UserId, ...]
    frame: bytes
    device: str | None = None


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """A user's device list changed; cached lists of it are stale."""

    user: UserId


@dataclass(frozen=True, slots=True)
class Joined:
    """`user` takes part in `conversation` from now on."""

    conversation: ConversationId
    user: UserId


@dataclass(frozen=True, slots=True)
class Left:
    """`user` takes part in `conversation` no more."""

    conversation: ConversationId
    user: UserId


@dataclass(frozen=True, slots=True)
class Displaced:
    """`device` has a connection of `epoch` now; its older ones, wherever, are to be closed.

    Epochs come from the connection registry and grow for each device.
    """

    user: UserId
    device: DeviceId
    epoch: int


Event = Appended | Ephemeral | DevicesChanged | Joined | Left | Displaced
Listener = Callable[[list[Event]], None]
OnResubscribed = Callable[[], None]


class Bus(Protocol):
    """At most once, unordered across publishers. Never relied on for correctness."""

    def publish(self, events: list[Event]) -> None:
        """Hand events over; returns at once, raises nothing, may lose them."""
        ...

    def subscribe(
        self, listener: Listener, on_resubscribed: OnResubscribed | None = None
    ) -> Callable[[], None]:
        """Call `listener` with batches of events, on the loop; the publisher's own too.

        `on_resubscribed` is called on the loop each time the bus hears other nodes again after
        it did not: what was said meanwhile is lost, so ask the store. Returns the way to stop.
        """
        ...
