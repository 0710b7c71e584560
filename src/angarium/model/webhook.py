"""How a verified webhook is kept until it is worked off: the URL it came to and its bytes."""

import msgspec


class RawWebhook(msgspec.Struct, array_like=True):
    """What a provider sent, unparsed."""

    url: str
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RawWebhook).decode


def pack_webhook(url: str, body: bytes) -> bytes:
    return _encode(RawWebhook(url, body))


def unpack_webhook(packed: bytes) -> RawWebhook:
    """Raises msgspec.DecodeError for anything else."""
    return _decode(packed)


def webhook_place(channel: str, event: str) -> str:
    """The place its seal is bound to."""
    return f"webhook/{channel}/{event}"
