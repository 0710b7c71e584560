"""A channel is an outside network that contacts write from. One file an adapter, no state.

An adapter knows the provider's wire format and its facts; it decides nothing about policy.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """What arrived, before anything is parsed. Header names are in lower case."""

    url: str  # The public URL the provider called: settings + path + query, never Host.
    method: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """A contact's identifiers at the provider; any may be empty, not all."""

    phone: str = ""  # E.164 with plus sign
    bsuid: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class MediaRef:
    """An attachment still at the provider."""

    url: str
    content_type: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message of a contact. `unsupported` is what we do not know, kept in `raw`."""

    id: str  # the provider's message id: the deduplication key
    contact: Address
    business: str  # which of our numbers was written to
    kind: Literal["text", "media", "location", "button", "unsupported"]
    text: str = ""
    profile_name: str = ""
    media: tuple[MediaRef, ...] = ()
    button: str = ""
    location: tuple[float, float] | None = None
    reply_to: str = ""
    forwarded: bool = False
    sent_ms: int = 0  # 0: the provider does not say
    raw: Mapping[str, Any] = field(default_factory=dict)


FinalVerdict = Literal["retry", "template", "never", "alarm"]  # of what surely did not arrive


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """What became of a message we sent. `rank` only grows (see `STATUS_RANK`)."""

    provider_id: str
    status: Literal["accepted", "queued", "sending", "sent", "delivered", "read", "failed"]
    error_code: str = ""
    delivery: str = ""  # our own delivery id, where the provider hands it back
    verdict: FinalVerdict = "never"  # of a failed one: may it be tried again?


STATUS_RANK = {
    "accepted": 0, "queued": 1, "sending": 2, "sent": 3, "delivered": 4, "read": 5, "failed": 9,
}  # fmt: skip

ChannelEvent = Inbound | StatusUpdate

Verdict = Literal["retry", "unknown", "template", "never", "alarm"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to a contact. `delivery` is our id of it."""

    delivery: str
    to: Address
    sender: str  # which of our numbers
    text: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider took it under this id."""

    provider_id: str
    status: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """It did not leave, or we cannot know (`unknown`: resolve before any resend). `reached` is
    false when the provider could not even be asked: that costs no attempt."""

    verdict: Verdict
    code: str
    sentence: str
    after_ms: int = 0
    reached: bool = True


class Channel(Protocol):
    """An adapter. Network errors come back as NotSent, never as exceptions."""

    name: str
    text_chars_max: int

    def verify(self, request: WebhookRequest) -> None:
        """Raises BadSignature. Reads only bytes and headers; parses nothing before."""
        ...

    def event_id(self, request: WebhookRequest) -> str:
        """The provider's id of this webhook, for deduplication by unique index; statuses and
        messages never share one. Call after `verify`. Raises Malformed."""
        ...

    def parse(self, url: str, body: bytes) -> Sequence[ChannelEvent]:
        """Everything in a verified payload; unknown kinds are kept, never fail the rest."""
        ...

    async def send(self, outgoing: Outgoing) -> Sent | NotSent: ...

    async def find_sent(
        self, outgoing: Outgoing, since_ms: int, exclude: Collection[str] = ()
    ) -> Sent | None:
        """Look an uncertain send up at the provider, passing over the provider ids in `exclude`
        (other deliveries of the same text). Raises Unavailable."""
        ...

    async def show_typing(self, message_id: str) -> None:
        """Best effort: also marks the message as read. Raises nothing."""
        ...
