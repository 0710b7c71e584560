"""Attachments: files sealed in chunks under a key of their own (the STREAM construction).

The padded file is cut into chunks of 1 MiB; each is sealed by AES-256-GCM under the file's
key with the nonce  7 bytes | index (4 bytes) | 1 for the last chunk, else 0  and, as
associated data, conversation, blob and chunk count. The 7 bytes are a keyed hash of the chunk
and stand in front of its ciphertext: an upload that resumes makes the same bytes again, and a
file that changed in between does not reuse a nonce. A missing, added, moved or foreign chunk
does not open. The relay sees a size rounded up by Padmé's rule (at most 12 % more) and knows
neither name nor type.

The key, the size and SHA-256 of the whole ciphertext travel in the message (`body.FileRef`).
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from angarium.e2ee.body import FileRef
from angarium.errors import Malformed, SealBroken, TooLarge
from angarium.ids import ConversationId, RandomBytes
from angarium.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES

_PREFIX_BYTES = 7
_TAG_BYTES = 16
CHUNK_PLAIN_BYTES = BLOB_CHUNK_BYTES - _TAG_BYTES - _PREFIX_BYTES

Read = Callable[[int, int], bytes]
"""read(offset, bytes wanted) -> exactly so many bytes of the file, fewer only at its end."""


def padded_size(size_bytes: int) -> int:
    """Padmé: a size is rounded up so that it tells only log(log(size)) bits."""
    if size_bytes < 2:
        return max(size_bytes, 1)
    exponent = size_bytes.bit_length() - 1
    dropped_bits = exponent - exponent.bit_length()
    mask = (1 << max(dropped_bits, 0)) - 1
    return (size_bytes + mask) & ~mask


@dataclass(frozen=True, slots=True)
class SealedFile:
    """How one file is sealed: keep it until the upload is complete and any chunk can be made
    again, byte for byte. Secret: `key`."""

    conversation: ConversationId
    blob: str
    key: bytes
    size: int

    @classmethod
    def plan(
        cls,
        conversation: ConversationId,
        blob: str,
        size_bytes: int,
        random: RandomBytes = secrets.token_bytes,
    ) -> "SealedFile":
        """A new key for a file of `size_bytes`. Raises TooLarge."""
        planned = cls(conversation, blob, random(32), size_bytes)
        if size_bytes < 0 or planned.ciphertext_bytes > BLOB_BYTES_MAX:
            raise TooLarge(f"an attachment has at most {BLOB_BYTES_MAX} bytes once sealed")
        return planned

    @property
    def chunks(self) -> int:
        return -(-padded_size(self.size) // CHUNK_PLAIN_BYTES)

    @property
    def ciphertext_bytes(self) -> int:
        return padded_size(self.size) + self.chunks * (_TAG_BYTES + _PREFIX_BYTES)

    def seal_chunk(self, index: int, read: Read) -> bytes:
        """The ciphertext of chunk `index`, the same every time for the same file.

        Raises Malformed when the file is shorter than planned.
        """
        start = index * CHUNK_PLAIN_BYTES
        length = min(CHUNK_PLAIN_BYTES, padded_size(self.size) - start)
        if not 0 <= index < self.chunks:
            raise IndexError(index)
        wanted = min(length, max(0, self.size - start))
        plaintext = read(start, wanted) if wanted else b""
        if len(plaintext) != wanted:
            raise Malformed("the file is shorter than it was")
        padded = plaintext + bytes(length - wanted)
        prefix = _prefix(self.key, index, padded)
        place = _place(self.conversation, self.blob, self.chunks)
        nonce = _nonce(prefix, index, self.chunks)
        return prefix + AESGCM(self.key).encrypt(nonce, padded, place)

    def seal(self, read: Read, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """(index, ciphertext) of each chunk from `first` on: an upload resumes anywhere."""
        return ((index, self.seal_chunk(index, read)) for index in range(first, self.chunks))

    def reference(self, sha256: bytes, name: str, content_type: str) -> FileRef:
        """What the message carries; `sha256` is over all chunks in order."""
        return FileRef(
            blob=self.blob,
            key=self.key,
            sha256=sha256,
            name=name,
            content_type=content_type,
            size=self.size,
            chunks=self.chunks,
        )


class FileOpener:
    """Opens the chunks of an attachment in any order, and checks the whole at the end."""

    def __init__(self, conversation: ConversationId, file: FileRef) -> None:
        """Raises Malformed when size and chunk count contradict each other."""
        expected = -(-padded_size(file.size) // CHUNK_PLAIN_BYTES) if file.size >= 0 else -1
        if file.chunks != expected or len(file.key) != 32:
            raise Malformed("the attachment's size and chunks contradict each other")
        self._file = file
        self._place = _place(conversation, file.blob, file.chunks)
        self._cipher = AESGCM(file.key)
        self._hash = hashlib.sha256()
        self._hashed = 0

    def open_chunk(self, index: int, sealed: bytes) -> bytes:
        """The plaintext of chunk `index`, without padding.

        Raises SealBroken: changed, moved, of another file, or the file was cut.
        """
        file = self._file
        if not 0 <= index < file.chunks:
            raise SealBroken("the attachment has no such chunk")
        nonce = _nonce(sealed[:_PREFIX_BYTES], index, file.chunks)
        try:
            plaintext = self._cipher.decrypt(nonce, sealed[_PREFIX_BYTES:], self._place)
        except (InvalidTag, ValueError):
            raise SealBroken("a chunk of the attachment does not open") from None
        start = index * CHUNK_PLAIN_BYTES
        if len(plaintext) != min(CHUNK_PLAIN_BYTES, padded_size(file.size) - start):
            raise SealBroken("a chunk of the attachment has another length")
        if index == self._hashed:
            self._hash.update(sealed)
            self._hashed += 1
        return plaintext[: max(0, file.size - start)]

    def open(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The file's plaintext from all its chunks in order. Raises SealBroken, at the end also
        when the whole differs from what the message promised."""
        for index, sealed in enumerate(chunks):
            yield self.open_chunk(index, sealed)
        self.finish()

    def finish(self) -> None:
        """Raises SealBroken unless every chunk was opened in order and all is as promised.

        After a resumed download hash the earlier chunks first: open them again.
        """
        if self._hashed != self._file.chunks or self._hash.digest() != self._file.sha256:
            raise SealBroken("the attachment is not complete or not the one promised")


def _nonce(prefix: bytes, index: int, chunks: int) -> bytes:
    return prefix + index.to_bytes(4, "big") + bytes((index == chunks - 1,))


def _prefix(key: bytes, index: int, padded: bytes) -> bytes:
    nonce_key = hmac.digest(key, b"angarium chunk nonce 1", "sha256")
    return hmac.digest(nonce_key, index.to_bytes(4, "big") + padded, "sha256")[:_PREFIX_BYTES]


def _place(conversation: str, blob: str, chunks: int) -> bytes:
    return b"\x00".join((conversation.encode(), blob.encode(), b"%d" % chunks))
