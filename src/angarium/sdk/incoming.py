"""Opening what the relay delivers: one message in, what a program can show out. No IO."""

from collections.abc import Sequence

import msgspec

from angarium.e2ee.body import Body
from angarium.e2ee.engine import CryptoEngine
from angarium.e2ee.envelope import Outer
from angarium.errors import (
    Gone,
    Replayed,
    RosterDiffers,
    Undecryptable,
    Untrusted,
    UnverifiedDevice,
)
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.protocol.frames import Msg
from angarium.sdk.contract import Received
from angarium.sdk.talk import Talk

VOID = "void"
_PREKEY_KIND = 0


class KeysWanted(Exception):
    """The message names a device not known here: fetch the lists and open again. `inner` is
    what is already unsealed; the ratchet has moved, so it cannot be unsealed again."""

    def __init__(self, inner: bytes | None) -> None:
        super().__init__("fetch the device lists")
        self.inner = inner


def starts_session(message: Msg) -> bool:
    """Whether the sender used one of this device's one-time keys."""
    return len(message.ct) > 1 and message.ct[1] == _PREKEY_KIND


def open_message(
    message: Msg,
    talk: Talk,
    engine: CryptoEngine,
    users: Sequence[UserId],
    *,
    inner: bytes | None = None,
    last_try: bool = False,
) -> Received:
    """Open it and move the conversation's chain. Raises KeysWanted, unless `last_try`: then
    what cannot be trusted becomes a Received with its problem named."""
    outer = Outer(
        ConversationId(message.c),
        message.e,
        message.s,
        MessageKey(message.key),
        DeviceId(message.dev),
    )
    if message.dev == engine.device:
        return _own(message, talk, outer, engine)
    if message.k == VOID:
        return _without_body(message, engine, Gone.code)
    if not message.ct:
        # Sent before this device was added: it was sealed for others only.
        return _without_body(message, engine, Undecryptable.code)
    sender, device = UserId(message.sender), DeviceId(message.dev)
    try:
        if inner is None:
            inner = engine.unseal(sender, device, message.ct)
        accepted = talk.chain.accept(outer, inner, engine.roster(users))
    except (RosterDiffers, UnverifiedDevice) as error:
        if not last_try:
            raise KeysWanted(inner) from None
        return _without_body(message, engine, error.code)
    except (Untrusted, msgspec.MsgspecError) as error:
        return _without_body(message, engine, getattr(error, "code", Undecryptable.code))
    return Received(
        conversation=outer.conversation,
        sequence=message.s,
        key=outer.key,
        sender=sender,
        device=device,
        accepted_ms=message.ts,
        body=accepted.body,
        own=sender == engine.user,
        gap=accepted.gap,
        stream=accepted.stream,
    )


def _own(message: Msg, talk: Talk, outer: Outer, engine: CryptoEngine) -> Received:
    out = talk.outs.get(message.key)
    talk.chain.accept_own(outer)
    if out is None:
        problem = Replayed.code if message.key in talk.recent else Undecryptable.code
        return _without_body(message, engine, problem)
    return Received(
        conversation=outer.conversation,
        sequence=message.s,
        key=outer.key,
        sender=engine.user,
        device=engine.device,
        accepted_ms=message.ts,
        body=out.record.body,
        own=True,
        stream=out.record.stream,
    )


def _without_body(message: Msg, engine: CryptoEngine, problem: str) -> Received:
    return Received(
        conversation=ConversationId(message.c),
        sequence=message.s,
        key=MessageKey(message.key),
        sender=UserId(message.sender),
        device=DeviceId(message.dev),
        accepted_ms=message.ts,
        body=Body(),
        own=message.sender == engine.user,
        problem=problem,
        addressed=bool(message.ct),
    )
