"""Key management: one small contract before every provider, and the sealer built on it.

A key encryption key never leaves its provider; data keys are generated here, wrapped there.
`ctx` (the encryption context) is bound to the wrapped key: another context does not open it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Context = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DataKey:
    """32 bytes in the clear for use now, and the same wrapped for storage."""

    plaintext: bytes
    wrapped: bytes
    key_id: str


class Kms(Protocol):
    """Raises KmsUnavailable when the provider does not answer or the key is gone, and
    SealBroken for a wrong context or changed bytes."""

    scheme: str

    async def generate_data_key(self, key_id: str, ctx: Context) -> DataKey: ...

    async def unwrap(self, wrapped: bytes, key_id: str, ctx: Context) -> bytes: ...

    async def rewrap(self, wrapped: bytes, key_id: str, ctx: Context) -> bytes:
        """The same data key under the newest version of the key encryption key."""
        ...

    async def rotate(self, key_id: str) -> None:
        """A new version wraps from now on; older ones still unwrap."""
        ...

    async def destroy(self, key_id: str) -> None:
        """For ever: what it wrapped can never be opened again."""
        ...


class Sealer(Protocol):
    """Seals records for storage. Synchronous on purpose: data keys are fetched beforehand by
    `open`, so that sealing needs no await between a ratchet step and its write."""

    def seal(self, plaintext: bytes, place: str) -> bytes:
        """AES-256-GCM, bound to `place` (table, key, ...): elsewhere it does not open."""
        ...

    def unseal(self, blob: bytes, place: str) -> bytes:
        """Raises SealBroken."""
        ...
