"""What the client machine asks its driver to do, in order. Pure values."""

from dataclasses import dataclass

from angarium.errors import AngariumError
from angarium.protocol.frames import AnyFrame, Evt, Msg, Part


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Open a connection and report `opened(link)` or `closed(link)`. `fresh_token`: the last
    token was refused as expired."""

    link: int
    fresh_token: bool = False


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send these frames as one WebSocket message."""

    link: int
    frames: list[AnyFrame]


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Close it; no `closed` report is expected."""

    link: int
    code: int = 1000


@dataclass(frozen=True, slots=True)
class Deliver:
    """New messages in order. Answer with `committed` once they are stored."""

    messages: list[Msg]


@dataclass(frozen=True, slots=True)
class Stored:
    """The relay has the message. `sequence` is 0 when only the fact is known."""

    c: str
    key: str
    sequence: int


@dataclass(frozen=True, slots=True)
class SendRefused:
    """The relay will not take the message; it has left the queue."""

    c: str
    key: str
    error: AngariumError


@dataclass(frozen=True, slots=True)
class Reseal:
    """The device list was stale: seal again under the same key, then call `resealed`."""

    c: str
    key: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renumbered:
    """Queued sends have new counters, as (key, counter); persist them."""

    c: str
    moved: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class EpochBegan:
    """The conversation has another history now; its messages arrive from the first."""

    c: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Messages before `floor` are gone for good; the cursor stands before it."""

    c: str
    floor: int


@dataclass(frozen=True, slots=True)
class Ephemeral:
    frame: Evt | Part


@dataclass(frozen=True, slots=True)
class Live:
    """The backlog is delivered."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The machine has stopped for good, and why."""

    error: AngariumError


Effect = (
    OpenLink
    | Transmit
    | CloseLink
    | Deliver
    | Stored
    | SendRefused
    | Reseal
    | Renumbered
    | EpochBegan
    | Skipped
    | Ephemeral
    | Live
    | Ended
)
