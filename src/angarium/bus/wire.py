"""Events as bytes between nodes: a batch names its sender, each event stands by itself.

A node of another version may say events this one does not know: they are passed over and
counted, the rest of the batch is heard.
"""

from collections.abc import Sequence
from typing import assert_never
from zlib import crc32

import msgspec

from angarium.bus.contract import (
    Appended,
    DevicesChanged,
    Displaced,
    Ephemeral,
    Event,
    Joined,
    Left,
)
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.model.message import StoredMessage


class _Message(msgspec.Struct, array_like=True, gc=False):
    sequence: int
    key: MessageKey
    sender: UserId
    device: DeviceId
    cs: int
    kind: str
    accepted_ms: int
    to: dict[DeviceId, bytes]


class _Appended(msgspec.Struct, array_like=True, tag="a", gc=False):
    conversation: ConversationId
    epoch: int
    sequence: int
    users: tuple[UserId, ...]
    messages: tuple[_Message, ...] = ()


class _Ephemeral(msgspec.Struct, array_like=True, tag="e", gc=False):
    conversation: ConversationId
    users: tuple[UserId, ...]
    frame: bytes
    device: str | None


class _DevicesChanged(msgspec.Struct, array_like=True, tag="d", gc=False):
    user: UserId


class _Joined(msgspec.Struct, array_like=True, tag="j", gc=False):
    conversation: ConversationId
    user: UserId


class _Left(msgspec.Struct, array_like=True, tag="l", gc=False):
    conversation: ConversationId
    user: UserId


class _Displaced(msgspec.Struct, array_like=True, tag="x", gc=False):
    user: UserId
    device: DeviceId
    epoch: int


_Said = _Appended | _Ephemeral | _DevicesChanged | _Joined | _Left | _Displaced
_ENCODER = msgspec.msgpack.Encoder()
_SAID: msgspec.msgpack.Decoder[_Said] = msgspec.msgpack.Decoder(_Said)
_BATCH = msgspec.msgpack.Decoder(tuple[bytes, list[msgspec.Raw]])


def pack_event(event: Event) -> bytes:
    """One event. Raises ValueError when a name in it is no valid text."""
    return _ENCODER.encode(_said(event))


def _said(event: Event) -> _Said:
    match event:
        case Appended(conversation, epoch, sequence, users, messages):
            packed = tuple(_packed(message) for message in messages)
            return _Appended(conversation, epoch, sequence, users, packed)
        case Ephemeral(conversation, users, frame, device):
            return _Ephemeral(conversation, users, frame, device)
        case DevicesChanged(user):
            return _DevicesChanged(user)
        case Joined(conversation, user):
            return _Joined(conversation, user)
        case Left(conversation, user):
            return _Left(conversation, user)
        case Displaced(user, device_id, epoch):
            return _Displaced(user, device_id, epoch)
        case _:
            assert_never(event)


def _event(said: _Said) -> Event:
    match said:
        case _Appended():
            messages = tuple(_message(said, each) for each in said.messages)
            return Appended(said.conversation, said.epoch, said.sequence, said.users, messages)
        case _Ephemeral():
            return Ephemeral(said.conversation, said.users, said.frame, said.device)
        case _DevicesChanged():
            return DevicesChanged(said.user)
        case _Joined():
            return Joined(said.conversation, said.user)
        case _Left():
            return Left(said.conversation, said.user)
        case _Displaced():
            return Displaced(said.user, said.device, said.epoch)
        case _:
            assert_never(said)


def _packed(message: StoredMessage) -> _Message:
    return _Message(
        message.sequence,
        message.key,
        message.sender,
        message.device,
        message.cs,
        message.kind,
        message.accepted_ms,
        dict(message.to),
    )


def _message(said: _Appended, each: _Message) -> StoredMessage:
    return StoredMessage(
        said.conversation,
        said.epoch,
        each.sequence,
        each.key,
        each.sender,
        each.device,
        each.cs,
        each.kind,
        each.accepted_ms,
        each.to,
    )


def pack_batch(sender: bytes, packed: Sequence[bytes]) -> bytes:
    """What one PUBLISH carries."""
    return _ENCODER.encode((sender, [msgspec.Raw(each) for each in packed]))


def unpack_batch(payload: bytes) -> tuple[bytes, list[Event], int]:
    """Sender, events in order, and how many were not understood. Raises nothing."""
    try:
        sender, raws = _BATCH.decode(payload)
    except (msgspec.DecodeError, ValueError):
        return b"", [], 1
    events: list[Event] = []
    for raw in raws:
        try:
            events.append(_event(_SAID.decode(raw)))
        except (msgspec.DecodeError, ValueError):
            continue
    return sender, events, len(raws) - len(events)


def topic_of(event: Event, topics: int) -> int:
    """Events of one conversation share a topic, and so their order."""
    if topics == 1:
        return 0
    name = event.user if isinstance(event, DevicesChanged | Displaced) else event.conversation
    return crc32(name.encode(errors="replace")) % topics
