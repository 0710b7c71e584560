"""What people and agents say to each other: only ever inside a seal.

No module that the messaging service can reach imports this; `tests/test_tidy.py` holds that.
"""

from typing import Literal

import msgspec


class FileRef(msgspec.Struct, omit_defaults=True):
    """An encrypted attachment: where its ciphertext lies and the key that opens it."""

    blob: str
    key: bytes
    sha256: bytes  # of the whole ciphertext
    name: str
    content_type: str
    size: int  # of the plaintext
    chunks: int


BodyType = Literal["text", "question", "status", "system", "event"]


class Body(msgspec.Struct, omit_defaults=True):
    """The content of one message.

    `agent` names the agent that answers (or that a person addresses); `ref` is the key of the
    message this answers, of several the newest, and `refs` has the keys of the others;
    `options` are offered with a question; `via` is a channel's name when a bridge carried it
    ("via WhatsApp, encrypted up to the bridge").
    """

    type: BodyType = "text"
    text: str = ""
    agent: str = ""
    ref: str = ""
    options: list[str] = []
    files: list[FileRef] = []
    via: str = ""
    refs: list[str] = []
    name: str = ""  # the sender's display name, where known


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Body).decode


def pack(body: Body) -> bytes:
    return _encode(body)


def unpack(packed: bytes) -> Body:
    """Raises msgspec.DecodeError for anything else."""
    return _decode(packed)
