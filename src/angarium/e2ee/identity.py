"""A user's cross-signing keys, and the number two people compare.

The master key signs the self-signing key; the self-signing key signs each device. Public
objects have the Matrix shapes; `model/signatures.py` checks them.
"""

import copy
import hashlib
import secrets
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from angarium.errors import SealBroken, UnverifiedDevice
from angarium.ids import RandomBytes, UserId
from angarium.model.signatures import encode_base64, signed_bytes

_SAFETY_ROUNDS = 5200  # Slows a search for a look-alike key; about 5 ms here.


class _Record(msgspec.Struct, array_like=True):
    user: str
    master: bytes
    self_signing: bytes
    public: bytes


class Identity:
    """Private cross-signing keys. `master` may be absent: then devices can be signed, and the
    self-signing key cannot be replaced. `dump` is plain: the caller seals it."""

    def __init__(
        self, user: UserId, master: bytes, self_signing: bytes, public: dict[str, Any]
    ) -> None:
        self.user = user
        self._master = master
        self._self_signing = Ed25519PrivateKey.from_private_bytes(self_signing)
        self._public = public
        self._name = _public_key(self._self_signing)

    @classmethod
    def create(cls, user: UserId, random: RandomBytes = secrets.token_bytes) -> "Identity":
        """A new master key and self-signing key."""
        master_raw, self_signing_raw = random(32), random(32)
        master = Ed25519PrivateKey.from_private_bytes(master_raw)
        name = _public_key(master)
        self_signing = _cross_signing_object(
            user,
            "self_signing",
            _public_key(Ed25519PrivateKey.from_private_bytes(self_signing_raw)),
        )
        _sign(self_signing, user, name, master)
        public = {
            "master_key": _cross_signing_object(user, "master", name),
            "self_signing_key": self_signing,
        }
        return cls(user, master_raw, self_signing_raw, public)

    @property
    def holds_master(self) -> bool:
        return bool(self._master)

    def public(self) -> dict[str, Any]:
        """{"master_key": ..., "self_signing_key": ...}, to upload."""
        return copy.deepcopy(self._public)

    def for_further_device(self) -> "Identity":
        """What another device of this user needs: everything but the master key."""
        return Identity(self.user, b"", self._self_signing.private_bytes_raw(), self._public)

    def sign_device(self, device_keys: dict[str, Any]) -> dict[str, Any]:
        """`device_keys` with the self-signing key's signature added.

        Check whose keys they are first: whoever is signed receives the user's messages. Raises
        UnverifiedDevice for a device of another user.
        """
        if device_keys.get("user_id") != self.user:
            raise UnverifiedDevice("only this user's own devices are signed")
        signed = copy.deepcopy(device_keys)
        _sign(signed, self.user, self._name, self._self_signing)
        return signed

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(
            _Record(
                self.user,
                self._master,
                self._self_signing.private_bytes_raw(),
                msgspec.json.encode(self._public),
            )
        )

    @classmethod
    def load(cls, record: bytes) -> "Identity":
        """Raises SealBroken when `record` is not from `dump`."""
        try:
            it = msgspec.msgpack.decode(record, type=_Record)
            return cls(
                UserId(it.user), it.master, it.self_signing, msgspec.json.decode(it.public)
            )
        except (msgspec.MsgspecError, ValueError):
            raise SealBroken("the identity record does not open") from None


def safety_number(one: tuple[str, bytes], other: tuple[str, bytes]) -> str:
    """60 digits in groups of five for two (user id, master key), the same in either order."""
    digits = "".join(sorted((_half(*one), _half(*other))))
    return " ".join(digits[start : start + 5] for start in range(0, 60, 5))


def _half(user: str, master: bytes) -> str:
    name = user.encode()
    subject = len(name).to_bytes(2, "big") + name + master
    digest = b"angarium safety number 1" + subject
    for _ in range(_SAFETY_ROUNDS):
        digest = hashlib.sha512(digest + subject).digest()
    groups = (int.from_bytes(digest[at : at + 5], "big") % 100_000 for at in range(0, 30, 5))
    return "".join(f"{group:05d}" for group in groups)


def _public_key(key: Ed25519PrivateKey) -> str:
    return encode_base64(key.public_key().public_bytes_raw())


def _cross_signing_object(user: str, usage: str, key: str) -> dict[str, Any]:
    return {"user_id": user, "usage": [usage], "keys": {f"ed25519:{key}": key}}


def _sign(signed: dict[str, Any], user: str, name: str, key: Ed25519PrivateKey) -> None:
    signature = encode_base64(key.sign(signed_bytes(signed)))
    signed.setdefault("signatures", {}).setdefault(user, {})[f"ed25519:{name}"] = signature
