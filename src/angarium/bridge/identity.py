"""Who a contact is to the rest of the system: a keyed hash, never the number."""

import hashlib
import hmac
import uuid

from angarium.channels.contract import Address
from angarium.ids import ConversationId, MessageKey, UserId

_NAMESPACE = uuid.UUID("2f0a6b52-9d5c-5b0e-8a3f-5a4b7c1e9d10")


def identifiers(address: Address) -> list[tuple[str, str]]:
    """(kind, value) of what is known, the most telling first: a business-scoped id is one
    person's, a phone number may pass to another, a parent id spans several businesses."""
    known = (("bsuid", address.bsuid), ("phone", address.phone), ("parent", address.parent))
    return [(kind, value) for kind, value in known if value]


def mark(key: bytes, channel: str, kind: str, value: str) -> str:
    """The only form in which an identifier is stored outside a seal: 64 hex digits."""
    name = f"{channel}\x00{kind}\x00{value}".encode()
    return hmac.new(key, name, hashlib.sha256).hexdigest()


def contact_user(identifier_mark: str, domain: str) -> UserId:
    """The user id of a contact first seen under this mark."""
    return UserId(f"@wa_{identifier_mark[:32]}:{domain}")


def inbound_key(channel: str, message_id: str) -> MessageKey:
    """The key under which a contact's message is submitted: the same message, the same key."""
    return MessageKey(str(uuid.uuid5(_NAMESPACE, f"in/{channel}/{message_id}")))


def delivery_id(conversation: ConversationId, sequence: int, piece: int) -> str:
    """The id of one piece of one message on its way out."""
    return str(uuid.uuid5(_NAMESPACE, f"out/{conversation}/{sequence}/{piece}"))


def notice_id(channel: str, message_id: str, notice: str) -> str:
    """The id of the bridge's own answer to a message that no agent sees."""
    return str(uuid.uuid5(_NAMESPACE, f"notice/{channel}/{message_id}/{notice}"))
