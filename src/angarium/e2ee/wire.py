"""A ciphertext on the wire, and how it is padded before it is sealed.

    0x01 | Olm type (0 prekey, 1 normal) | sender's Curve25519 key (32 bytes) | Olm message

The same content in the Matrix JSON shape is what `OlmMachine` in a browser takes and gives.
"""

from dataclasses import dataclass
from typing import Any

from angarium.errors import Malformed, TooLarge
from angarium.limits import CIPHERTEXT_BYTES_MAX, PLAINTEXT_BYTES_MAX
from angarium.model.signatures import OLM_ALGORITHM, decode_base64, encode_base64

_VERSION = 1  # Other values leave room for other algorithms.
_HEADER_BYTES = 34
_BUCKET_BYTES = 256
_BUCKETS_UP_TO_BYTES = 4096


@dataclass(frozen=True, slots=True)
class OlmCiphertext:
    """`kind` is 0 for a message that starts a session, 1 otherwise."""

    kind: int
    sender_key: bytes
    body: bytes

    def pack(self) -> bytes:
        return bytes((_VERSION, self.kind)) + self.sender_key + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> "OlmCiphertext":
        """Raises Malformed, TooLarge."""
        if len(packed) > CIPHERTEXT_BYTES_MAX:
            raise TooLarge(f"a ciphertext has at most {CIPHERTEXT_BYTES_MAX} bytes")
        if len(packed) <= _HEADER_BYTES or packed[0] != _VERSION or packed[1] > 1:
            raise Malformed("not a ciphertext of this version")
        return cls(packed[1], packed[2:_HEADER_BYTES], packed[_HEADER_BYTES:])

    def to_matrix(self, recipient_key: str) -> dict[str, Any]:
        """The `m.olm.v1.curve25519-aes-sha2` object for the device with that Curve25519 key."""
        message = {"type": self.kind, "body": encode_base64(self.body)}
        return {
            "algorithm": OLM_ALGORITHM,
            "sender_key": encode_base64(self.sender_key),
            "ciphertext": {recipient_key: message},
        }

    @classmethod
    def from_matrix(cls, content: dict[str, Any], recipient_key: str) -> "OlmCiphertext":
        """Raises Malformed, also when nothing in it is for that key."""
        try:
            message = content["ciphertext"][recipient_key]
            kind, body, algorithm = message["type"], message["body"], content["algorithm"]
            sender_key = decode_base64(content["sender_key"], 32)
        except (KeyError, TypeError):
            raise Malformed("not a session message for this device") from None
        if algorithm != OLM_ALGORITHM or kind not in (0, 1):
            raise Malformed("not a session message of this version")
        return cls(int(kind), sender_key, decode_base64(body))


def pad(plaintext: bytes) -> bytes:
    """Length (4 bytes), plaintext, zeros up to a bucket: 256 bytes up to 4 KiB, then 12.5 %.

    Raises TooLarge.
    """
    needed = len(plaintext) + 4
    if needed > PLAINTEXT_BYTES_MAX:
        raise TooLarge(f"at most {PLAINTEXT_BYTES_MAX - 4} bytes are sealed at once")
    size = -(-needed // _BUCKET_BYTES) * _BUCKET_BYTES
    if size > _BUCKETS_UP_TO_BYTES:
        size = _BUCKETS_UP_TO_BYTES
        while size < needed:
            size += size // 8
    size = min(size, PLAINTEXT_BYTES_MAX)
    return len(plaintext).to_bytes(4, "big") + plaintext + bytes(size - needed)


def unpad(padded: bytes) -> bytes:
    """Raises Malformed."""
    length = int.from_bytes(padded[:4], "big")
    if (
        len(padded) < 4
        or length > len(padded) - 4
        or padded.count(0, 4 + length) != (len(padded) - 4 - length)
    ):
        raise Malformed("the padding is wrong")
    return padded[4 : 4 + length]
