"""Identifiers: what they look like and who may make them.

A user id looks like `@name:domain` (the shape Matrix crypto libraries demand); a device id is
unique in the whole system and belongs to one user for ever; a conversation id and a message's
idempotency key are UUIDs of version 7, so that indexes grow at their right edge (RFC 9562).
"""

import re
import secrets
import uuid
from collections.abc import Callable
from typing import NewType

from angarium.errors import Malformed

UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
ConversationId = NewType("ConversationId", str)
MessageKey = NewType("MessageKey", str)

RandomBytes = Callable[[int], bytes]

_USER = re.compile(r"@[a-z0-9][a-z0-9._=/+-]{0,99}:[a-z0-9][a-z0-9.-]{0,99}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DEVICE = re.compile(r"[A-Z0-9]{6,32}")
_DEVICE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_REPLY_NAMESPACE = uuid.UUID("6ee1c1a2-4e7a-5c3b-9d0f-2f1a6a9a7e11")


def uuid7(now_ms: int, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """A UUID of version 7 for the given time: 48 bits of milliseconds, 74 random bits."""
    value = (now_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(random_bytes(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def reply_key(conversation: str, sequence: int, agent: str, part: int) -> MessageKey:
    """The key of an agent's reply: the same message, agent and part give the same key."""
    name = f"{conversation}/{sequence}/{agent}/{part}"
    return MessageKey(str(uuid.uuid5(_REPLY_NAMESPACE, name)))


def new_device_id(random_bytes: RandomBytes = secrets.token_bytes) -> DeviceId:
    """Sixteen letters and digits without look-alikes: 80 random bits."""
    return DeviceId("".join(_DEVICE_ALPHABET[byte % 32] for byte in random_bytes(16)))


def check_user_id(value: str) -> UserId:
    """Return `value` as a user id. Raises Malformed."""
    if not _USER.fullmatch(value):
        raise Malformed("a user id looks like @name:domain, in lower case")
    return UserId(value)


def check_device_id(value: str) -> DeviceId:
    """Return `value` as a device id. Raises Malformed."""
    if not _DEVICE.fullmatch(value):
        raise Malformed("a device id has 6 to 32 capital letters and digits")
    return DeviceId(value)


def check_uuid(value: str) -> str:
    """Return `value` if it is a UUID in canonical form. Raises Malformed."""
    if not _UUID.fullmatch(value):
        raise Malformed("expected a UUID in canonical form")
    return value
