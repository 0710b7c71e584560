"""What a connected device offers to the program behind it: a person's client, the gateway, the
bridge. One implementation (`sdk/endpoint.py`) serves all three.

Receiving is one local transaction: ratchet state, cursor and whatever the program wants to
keep of the message are written together; only then is the message acknowledged. Sending
likewise: the ciphertext and the ratchet step are durable before the first byte leaves, and a
crash re-sends the same ciphertext under the same key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from angarium.e2ee.body import Body
from angarium.errors import AngariumError
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.storage.contract import Write


@dataclass(frozen=True, slots=True)
class Received:
    """A message this device can show. `own`: sent by this user (this or another device).

    `problem` is an error code when it could not be opened or trusted; `body` is empty then.
    `addressed`: it was sealed for this device (not so: from before the device was added).
    `gap` counts messages of that sender's device that the relay withheld (0: none). `stream` is
    the key its author made for streamed parts of the answer (see `e2ee/parts.py`).
    """

    conversation: ConversationId
    sequence: int
    key: MessageKey
    sender: UserId
    device: DeviceId
    accepted_ms: int
    body: Body
    own: bool = False
    problem: str = ""
    gap: int = 0
    stream: bytes = b""
    addressed: bool = True


@dataclass(frozen=True, slots=True)
class Happened:
    """Something ephemeral: typing, presence, delivered, read, or a part of a streamed reply."""

    conversation: ConversationId
    kind: str  # typing | presence | delivered | read | part
    user: UserId
    sequence: int = 0
    on: bool = True
    ref: str = ""  # of a part: the key of the message it answers
    index: int = 0  # of a part
    body: Body | None = None  # of a part, opened


@dataclass(frozen=True, slots=True)
class Delivered:
    """The relay's answer to a send."""

    conversation: ConversationId
    sequence: int
    key: MessageKey


class Sink(Protocol):
    """The program behind a device."""

    def plan(self, received: Received) -> Sequence[Write]:
        """What to write in the same transaction as the ratchet step and the cursor. Fast, no
        await, may be asked again after a crash."""
        ...

    def committed(self, received: Received) -> None:
        """It is durable now; called once per message, in sequence order. No await."""
        ...

    def happened(self, event: Happened) -> None:
        """Something ephemeral; may be missed."""
        ...


class Endpoint(Protocol):
    """A device that connects, resumes, receives in order and sends exactly once, by itself."""

    user: UserId
    device: DeviceId

    async def open(self) -> None:
        """Load state, publish keys where needed, connect, and keep connected until `close`."""
        ...

    async def close(self) -> None:
        """Say bye, flush, stop. Nothing that was committed is lost."""
        ...

    @property
    def error(self) -> AngariumError | None:
        """What ended the device by itself (fenced, displaced, refused, a defect); None while it
        works and when it was closed. It does not come back: close it and make another."""
        ...

    async def wait_ended(self) -> None:
        """Wait until the device has ended, by itself or closed."""
        ...

    async def converse(self, users: Sequence[UserId]) -> ConversationId:
        """The conversation among this user and `users`, created if there is none."""
        ...

    async def submit(
        self,
        conversation: ConversationId,
        body: Body,
        key: MessageKey | None = None,
        also: Sequence[Write] = (),
    ) -> MessageKey:
        """Seal for every trusted device of the participants, make ciphertext, ratchet step and
        `also` durable in one write, and queue it for the wire. Returns its key at once after
        the write; it will be appended, whatever crashes. A key submitted before changes
        nothing.

        Raises UnverifiedDevice when a participant has no trusted device, IdentityChanged,
        Fenced, TooLarge (for so many devices), Busy (OUTBOX_WAITING_MAX wait already).
        """
        ...

    async def sent(self, key: MessageKey) -> Delivered:
        """Wait until the relay has stored the submitted message."""
        ...

    def part(
        self, conversation: ConversationId, ref: str, index: int, body: Body, stream: bytes
    ) -> None:
        """Send an ephemeral piece of the reply to message `ref`, sealed under the `stream` key
        that message carried: no ratchet moves, so losing one harms nothing. Never raises."""
        ...

    def typing(self, conversation: ConversationId, on: bool) -> None: ...

    def mark_read(self, conversation: ConversationId, sequence: int) -> None: ...
