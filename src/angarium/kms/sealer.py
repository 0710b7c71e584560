"""Seals records under one data key, each bound to its place."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from angarium.errors import SealBroken
from angarium.ids import RandomBytes
from angarium.kms.contract import Kms, Sealer

_FORMAT = b"\x01"
_NONCE_BYTES = 12  # Random: one data key seals well below 2**32 records.
_TAG_BYTES = 16


class DataKeySealer(Sealer):
    """AES-256-GCM under a data key of 32 bytes. A blob is format, nonce, ciphertext and tag."""

    def __init__(self, data_key: bytes, random_bytes: RandomBytes = os.urandom) -> None:
        self._cipher = AESGCM(data_key)
        self._random_bytes = random_bytes

    def seal(self, plaintext: bytes, place: str) -> bytes:
        nonce = self._random_bytes(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plaintext, _bound(place))

    def unseal(self, blob: bytes, place: str) -> bytes:
        start = len(_FORMAT) + _NONCE_BYTES
        if blob[:1] != _FORMAT or len(blob) < start + _TAG_BYTES:
            raise SealBroken("this record is not sealed as this program seals")
        try:
            return self._cipher.decrypt(blob[1:start], blob[start:], _bound(place))
        except InvalidTag:
            raise SealBroken("another key, another place or changed bytes") from None


async def open_sealer(
    kms: Kms, key_id: str, scope: str, wrapped: bytes | None
) -> tuple[DataKeySealer, bytes]:
    """A sealer for `scope` and its wrapped data key, which the caller stores.

    `wrapped` None makes a new data key. Raises KmsUnavailable, and SealBroken when `wrapped`
    belongs to another scope.
    """
    ctx = {"scope": scope}
    if wrapped is None:
        data_key = await kms.generate_data_key(key_id, ctx)
        return DataKeySealer(data_key.plaintext), data_key.wrapped
    return DataKeySealer(await kms.unwrap(wrapped, key_id, ctx)), wrapped


def _bound(place: str) -> bytes:
    return _FORMAT + place.encode()
