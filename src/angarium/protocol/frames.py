"""Frames of `angarium.1`. A frame is a tagged struct; its `t` names the type on the wire.

No frame has a field for plaintext: `ct` is always a ciphertext made by a device for a device.
Field names are short because they travel; this file says what each means.
"""

from typing import Literal

import msgspec

VERSION = 1
SUBPROTOCOL_MSGPACK = "angarium.1.msgpack"
SUBPROTOCOL_JSON = "angarium.1.json"

EventKind = Literal["typing", "presence", "delivered", "read"]


class Frame(msgspec.Struct, tag_field="t", omit_defaults=True, gc=False):
    """What all frames share: the tag `t`."""


class Sealed(msgspec.Struct, gc=False):
    """One ciphertext for one device."""

    dev: str
    ct: bytes


# --- client to server -----------------------------------------------------------------------


class Resume(msgspec.Struct, omit_defaults=True):
    """Where the client stands: `cursors` maps conversation -> [epoch, sequence]."""

    cursors: dict[str, tuple[int, int]] = {}
    sid: str = ""


class Hello(Frame, tag="hello"):
    """First frame, within 10 s. `win` = [messages, bytes] of credit the client offers."""

    v: int
    dev: str
    tok: str = ""
    app: str = ""
    feat: list[str] = []
    resume: Resume | None = None
    win: tuple[int, int] = (0, 0)


class Send(Frame, tag="send"):
    """Append idempotently. `key` is a UUIDv7; `cs` counts this device's messages in `c`."""

    id: int
    c: str
    key: str
    cs: int
    to: list[Sealed]
    kind: str = "msg"


class Ack(Frame, tag="ack"):
    """Everything up to each [conversation, sequence] is stored by this client."""

    a: list[tuple[str, int]]


class Get(Frame, tag="get"):
    """Ask for sequences `first`..`last` of `c` again, both included."""

    id: int
    c: str
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")


class Bye(Frame, tag="bye"):
    """Clean end: the server flushes and closes 1000."""


# --- server to client -----------------------------------------------------------------------


class Limits(msgspec.Struct):
    """The bounds this server holds the client to."""

    frame: int
    ct: int
    array: int
    in_flight: int
    in_flight_c: int


class Welcome(Frame, tag="welcome"):
    """The connection stands. `hb` seconds between pings; `now` in ms since the epoch."""

    sid: str
    node: str
    hb: float
    win: tuple[int, int]
    limits: Limits
    now: int
    resumed: bool = True
    reason: str = ""


class Ok(Frame, tag="ok"):
    """The send `id` is stored durably as sequence `s` of epoch `e`."""

    id: int
    c: str
    s: int
    e: int
    ts: int
    dup: bool = False


class Err(Frame, tag="err"):
    """Request `id` (0: none) was not done. `code` is from the one error table."""

    id: int
    code: str
    why: str = ""
    retry: bool = False
    after_ms: int = 0
    expect_cs: int = 0
    floor: int = 0
    missing: list[str] = []
    extra: list[str] = []


class Msg(Frame, tag="msg"):
    """One message for this device. `k` is `void` when purged; `ct` is empty for its sender."""

    c: str
    e: int
    s: int
    key: str
    sender: str = msgspec.field(name="from")
    dev: str
    ts: int
    k: str = "msg"
    ct: bytes = b""


class Range(Frame, tag="range"):
    """Answer to `get`: what is kept of `first`..`last`; `more` when the answer was cut."""

    id: int
    c: str
    e: int
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    msgs: list[Msg] = []
    more: bool = False
    floor: int = 1


class Heads(Frame, tag="head"):
    """Newest [conversation, epoch, sequence] of each of the user's conversations."""

    h: list[tuple[str, int, int]]


class SyncEnd(Frame, tag="sync_end"):
    """The backlog (`n` messages) is delivered; from here on it is live."""

    n: int


class Goaway(Frame, tag="goaway"):
    """Open a second connection within `spread_ms`, resume there, say bye here."""

    why: str
    spread_ms: int
    deadline_ms: int


# --- both ways ------------------------------------------------------------------------------


class Ping(Frame, tag="ping"):
    """Answer with a pong of the same number."""

    n: int


class Pong(Frame, tag="pong"):
    """The answer to ping `n`."""

    n: int


class Evt(Frame, tag="evt"):
    """Ephemeral: typing, presence, delivered, read. `s` for receipts. Server fills from/dev."""

    c: str
    kind: EventKind
    s: int = 0
    ttl: int = 0
    on: bool = True
    sender: str = msgspec.field(name="from", default="")
    dev: str = ""


class Part(Frame, tag="part"):
    """A sealed piece of a streamed reply to `ref`; the final message replaces the parts.

    Client to server: `to` names devices and ciphertexts. Server to client: `ct` is this
    device's, `dev` the sender's.
    """

    c: str
    ref: str
    i: int
    to: list[Sealed] = []
    ct: bytes = b""
    sender: str = msgspec.field(name="from", default="")
    dev: str = ""


ClientFrame = Hello | Send | Ack | Get | Bye | Ping | Pong | Evt | Part
ServerFrame = (
    Welcome | Ok | Err | Msg | Range | Heads | SyncEnd | Goaway | Ping | Pong | Evt | Part
)
AnyFrame = ClientFrame | ServerFrame
