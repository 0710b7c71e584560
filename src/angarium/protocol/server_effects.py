"""What the server's machine asks its shell to do."""

import msgspec

from angarium.protocol.frames import Evt, Get, Hello, Part, Send, ServerFrame


class Effect(msgspec.Struct, frozen=True, gc=False):
    """What the machine asks its shell to do."""


class Write(Effect, frozen=True):
    """Send this frame to the client."""

    frame: ServerFrame


class Greet(Effect, frozen=True):
    """Check token and device, load where the user stands, then call `welcome` or `refuse`."""

    hello: Hello


class Append(Effect, frozen=True):
    """Store the message, then call `accepted` or `rejected`."""

    send: Send


class Fetch(Effect, frozen=True):
    """Read a range, then call `fetched` and write the answer."""

    get: Get


class Relay(Effect, frozen=True):
    """Pass an ephemeral frame on to the other participants."""

    frame: Evt | Part


class Pump(Effect, frozen=True):
    """There may be something to deliver: ask `wanted`."""


class Hangup(Effect, frozen=True):
    """Flush, then close the connection."""

    code: int
    reason: str
