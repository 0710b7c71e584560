"""Key encryption keys in one file of this machine: for development and single machines.

Whoever reads the file can open everything it protects; it must not lie beside its backups. The
file is 0600, and one that others may read is refused.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from angarium.errors import KmsUnavailable, Misconfigured, SealBroken
from angarium.kms.contract import Context, DataKey, Kms

T = TypeVar("T")
_FORMAT = b"\x01"
_NONCE_BYTES = 12
_KEY_BYTES = 32
_HEADER_BYTES = len(_FORMAT) + 4


class _Key(msgspec.Struct):
    """The versions of one key, oldest first; none: destroyed, and never made again."""

    versions: list[bytes]
    oldest: int = 1


class _KeyFile(msgspec.Struct):
    format: int = 1
    keys: dict[str, _Key] = {}


def open_kms(url: str, default_folder: Path) -> Kms:
    """The key service that `url` names; empty or `local://`: a file in `default_folder`.

    Raises Misconfigured.
    """
    parts = urlsplit(url or "local://")
    if parts.scheme != "local":
        raise Misconfigured(
            f"kms_url: no key service `{parts.scheme}`; use local:///absolute/path/kms.json"
        )
    if parts.netloc:
        raise Misconfigured("kms_url: local:// takes an absolute path, with three slashes")
    path = unquote(parts.path)
    return LocalKms(Path(path) if path else default_folder / "kms.json")


class LocalKms:
    """See kms.contract.Kms. The file is made when the first key is.

    Raises Misconfigured when others may read the file, and KmsUnavailable when it cannot be
    read or written.
    """

    scheme = "local"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def generate_data_key(self, key_id: str, ctx: Context) -> DataKey:
        def work() -> DataKey:
            keys = self._read()
            if key_id not in keys.keys:
                keys = self._change(key_id, _first_version)
            plaintext = os.urandom(_KEY_BYTES)
            return DataKey(plaintext, _wrap(keys, key_id, ctx, plaintext), key_id)

        return await self._run(work)

    async def unwrap(self, wrapped: bytes, key_id: str, ctx: Context) -> bytes:
        return await self._run(lambda: _unwrap(self._read(), key_id, ctx, wrapped))

    async def rewrap(self, wrapped: bytes, key_id: str, ctx: Context) -> bytes:
        def work() -> bytes:
            keys = self._read()
            return _wrap(keys, key_id, ctx, _unwrap(keys, key_id, ctx, wrapped))

        return await self._run(work)

    async def rotate(self, key_id: str) -> None:
        def add(key: _Key | None) -> _Key:
            if key is None or not key.versions:
                raise KmsUnavailable(f"there is no key {key_id}")
            return _Key([*key.versions, os.urandom(_KEY_BYTES)], key.oldest)

        await self._run(lambda: self._change(key_id, add))

    async def destroy(self, key_id: str) -> None:
        await self._run(lambda: self._change(key_id, lambda _: _Key([])))

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise KmsUnavailable(
                f"the key file {self._path} cannot be used: {error.strerror}"
            ) from None

    def _read(self) -> _KeyFile:
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise Misconfigured(
                        f"others may read the key file: run `chmod 600 {self._path}`"
                    )
                content = file.read()
        except FileNotFoundError:
            return _KeyFile()
        try:
            keys = msgspec.json.decode(content, type=_KeyFile)
        except msgspec.DecodeError:
            raise KmsUnavailable(f"the key file {self._path} is damaged") from None
        if keys.format != 1:
            raise KmsUnavailable(f"the key file {self._path} is of a newer program")
        return keys

    def _change(self, key_id: str, change: Callable[[_Key | None], _Key]) -> _KeyFile:
        """Change one key under a lock, so that two processes never lose each other's keys."""
        with self._locked():
            keys = self._read()
            keys.keys[key_id] = change(keys.keys.get(key_id))
            _write_durably(self._path, msgspec.json.encode(keys))
            return keys

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(
            self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _first_version(key: _Key | None) -> _Key:
    # Another process may have made it since the file was read.
    return key or _Key([os.urandom(_KEY_BYTES)])


def _bound(key_id: str, ctx: Context, header: bytes) -> bytes:
    """What a wrapped key is bound to, in one spelling."""
    return header + msgspec.msgpack.encode([key_id, sorted(ctx.items())])


def _wrap(keys: _KeyFile, key_id: str, ctx: Context, plaintext: bytes) -> bytes:
    key = keys.keys.get(key_id)
    if key is None or not key.versions:
        raise KmsUnavailable(f"the key {key_id} is gone")
    newest = key.oldest + len(key.versions) - 1
    header = _FORMAT + newest.to_bytes(4, "big")
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(key.versions[-1]).encrypt(nonce, plaintext, _bound(key_id, ctx, header))
    return header + nonce + sealed


def _unwrap(keys: _KeyFile, key_id: str, ctx: Context, wrapped: bytes) -> bytes:
    key = keys.keys.get(key_id)
    if key is None or not key.versions:
        raise KmsUnavailable(f"the key {key_id} is gone")
    header, rest = wrapped[:_HEADER_BYTES], wrapped[_HEADER_BYTES:]
    place = int.from_bytes(header[1:], "big") - key.oldest
    if header[:1] != _FORMAT or not 0 <= place < len(key.versions):
        raise SealBroken("this wrapped key is of another kind or version")
    nonce, sealed = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
    try:
        return AESGCM(key.versions[place]).decrypt(nonce, sealed, _bound(key_id, ctx, header))
    except (InvalidTag, ValueError):
        raise SealBroken("another context or changed bytes: the key stays closed") from None


def _write_durably(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
