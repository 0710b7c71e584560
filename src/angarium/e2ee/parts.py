"""Parts of a streamed reply: sealed under the key that the question carried.

No ratchet moves, so a lost part harms nothing. Every part has a key of its own, made from the
stream key, fresh randomness and its place, so no nonce is ever used twice under one key:

    16 random bytes | AES-256-GCM(HKDF-SHA256(stream, random, device | question | index), part)
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from angarium.errors import Undecryptable
from angarium.ids import DeviceId, RandomBytes

STREAM_KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE = bytes(12)  # Each key seals one part only.


def seal_part(
    stream: bytes,
    device: DeviceId,
    ref: str,
    index: int,
    plaintext: bytes,
    random: RandomBytes = secrets.token_bytes,
) -> bytes:
    """Seal part `index` of the reply to message `ref`, sent by `device`.

    Raises ValueError when `stream` is not a stream key.
    """
    salt = random(_SALT_BYTES)
    return salt + _cipher(stream, salt, device, ref, index).encrypt(_NONCE, plaintext, None)


def open_part(stream: bytes, device: DeviceId, ref: str, index: int, sealed: bytes) -> bytes:
    """Raises Undecryptable: another key, device, question or index, or changed bytes."""
    salt, ciphertext = sealed[:_SALT_BYTES], sealed[_SALT_BYTES:]
    try:
        return _cipher(stream, salt, device, ref, index).decrypt(_NONCE, ciphertext, None)
    except (InvalidTag, ValueError):
        raise Undecryptable("this part does not open") from None


def _cipher(stream: bytes, salt: bytes, device: str, ref: str, index: int) -> AESGCM:
    if len(stream) != STREAM_KEY_BYTES or len(salt) != _SALT_BYTES:
        raise ValueError("a stream key has 32 bytes, a salt 16")
    place = b"\x00".join((b"angarium part 1", device.encode(), ref.encode(), b"%d" % index))
    return AESGCM(HKDF(SHA256(), 32, salt, place).derive(stream))
