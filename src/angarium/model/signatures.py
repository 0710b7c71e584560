"""Checks of signed public objects in the Matrix shapes, for the keys service and every device.

Pure functions over public keys: no private key and no plaintext comes near this file. The keys
service refuses what fails here; devices check again and never rely on that.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from angarium.errors import Malformed, UnverifiedDevice
from angarium.ids import DeviceId, UserId, check_device_id, check_user_id

OLM_ALGORITHM = "m.olm.v1.curve25519-aes-sha2"

_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT_U = (
    0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
)
_ORDER_EIGHT_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# With one of these keys every exchange gives a secret that anybody knows ...
_LOW_ORDER_U = frozenset({0, 1, _FIELD_PRIME - 1, *_ORDER_EIGHT_U})
# ... and under one of these anybody can sign.
_LOW_ORDER_Y = frozenset(
    {0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT_Y, _FIELD_PRIME - _ORDER_EIGHT_Y}
)
_DEPTH_MAX = 8  # Deeper objects are Malformed.


@dataclass(frozen=True, slots=True)
class PublicDevice:
    """The checked content of a `device_keys` object; keys in unpadded base64."""

    user: UserId
    id: DeviceId
    curve25519: str
    ed25519: str


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """The checked content of a user's two cross-signing objects; keys in unpadded base64."""

    user: UserId
    master: str
    self_signing: str


def encode_base64(raw: bytes) -> str:
    """Base64 without padding, as Matrix writes keys and signatures."""
    return base64.b64encode(raw).decode().rstrip("=")


def decode_base64(text: Any, bytes_exact: int | None = None) -> bytes:
    """The bytes of canonical unpadded base64. Raises Malformed for anything else."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise Malformed("expected unpadded base64") from None
    # One key, one spelling: otherwise two texts would name one key.
    if encode_base64(raw) != text or bytes_exact not in (None, len(raw)):
        raise Malformed("expected unpadded base64 of the right length")
    return raw


def canonical_json(value: Any) -> bytes:
    """The one spelling of `value` that is signed: sorted keys, no spaces, UTF-8, no floats.

    Raises Malformed.
    """
    _check_signable(value, 0)
    try:
        return msgspec.json.encode(value, order="sorted")
    except (TypeError, ValueError, OverflowError):
        raise Malformed("not a JSON value that can be signed") from None


def signed_bytes(signed: Mapping[str, Any]) -> bytes:
    """What a signature in a Matrix object covers: everything but `signatures`, `unsigned`."""
    return canonical_json(
        {
            name: value
            for name, value in signed.items()
            if name not in ("signatures", "unsigned")
        }
    )


def check_curve25519(text: Any) -> str:
    """Return a Curve25519 public key. Raises Malformed; also for zero and low-order keys."""
    u = int.from_bytes(decode_base64(text, 32), "little") & ((1 << 255) - 1)
    if u % _FIELD_PRIME in _LOW_ORDER_U:
        raise Malformed("this public key makes no secret")
    return str(text)


def check_ed25519(text: Any) -> str:
    """Return an Ed25519 public key. Raises Malformed; also for zero and low-order keys."""
    y = int.from_bytes(decode_base64(text, 32), "little") & ((1 << 255) - 1)
    if y >= _FIELD_PRIME or y in _LOW_ORDER_Y:
        raise Malformed("this public key verifies anything")
    return str(text)


def check_device_keys(device_keys: Mapping[str, Any]) -> PublicDevice:
    """The device that `device_keys` describes, signed by itself.

    Raises Malformed for the shape or a bad key, UnverifiedDevice for the signature.
    """
    _check_object(device_keys)
    user = check_user_id(_text(device_keys, "user_id"))
    device = check_device_id(_text(device_keys, "device_id"))
    algorithms = device_keys.get("algorithms")
    if not isinstance(algorithms, list) or OLM_ALGORITHM not in algorithms:
        raise Malformed("the device does not offer the session algorithm")
    keys = _check_object(device_keys.get("keys"))
    checked = PublicDevice(
        user=user,
        id=device,
        curve25519=check_curve25519(keys.get(f"curve25519:{device}")),
        ed25519=check_ed25519(keys.get(f"ed25519:{device}")),
    )
    check_signature(device_keys, user, device, checked.ed25519)
    return checked


def check_identity(
    master: Mapping[str, Any], self_signing: Mapping[str, Any]
) -> PublicIdentity:
    """A user's master key and the self-signing key it signed.

    Raises Malformed for the shape or a bad key, UnverifiedDevice for the signature.
    """
    user, master_key = _check_cross_signing_key(master, "master")
    owner, self_signing_key = _check_cross_signing_key(self_signing, "self_signing")
    if owner != user or self_signing_key == master_key:
        raise Malformed("the two cross-signing keys do not belong together")
    check_signature(self_signing, user, master_key, master_key)
    return PublicIdentity(user, master_key, self_signing_key)


def is_cross_signed(device_keys: Mapping[str, Any], self_signing: Mapping[str, Any]) -> bool:
    """Whether the self-signing key signed these device keys. Check both objects first."""
    try:
        user, key = _check_cross_signing_key(self_signing, "self_signing")
        if device_keys.get("user_id") != user:
            return False
        check_signature(device_keys, user, key, key)
    except (Malformed, UnverifiedDevice):
        return False
    return True


def check_signed_key(key: Mapping[str, Any], device: PublicDevice) -> str:
    """The public half of a one-time or fallback key that `device` signed.

    Raises Malformed for the shape or a bad key, UnverifiedDevice for the signature.
    """
    _check_object(key)
    if set(key) - {"key", "fallback", "signatures", "unsigned"}:
        # A device signs other objects with the same key: none of them passes as a prekey.
        raise Malformed("a signed key has a field that does not belong there")
    if key.get("fallback", False) not in (True, False):
        raise Malformed("`fallback` is true or absent")
    public = check_curve25519(key.get("key"))
    check_signature(key, device.user, device.id, device.ed25519)
    return public


def check_signature(signed: Mapping[str, Any], user: str, name: str, public_key: str) -> None:
    """Raises UnverifiedDevice unless `signed` carries `user`'s signature `ed25519:<name>`."""
    signature = signed.get("signatures")
    for step in (user, f"ed25519:{name}"):
        signature = signature.get(step) if isinstance(signature, Mapping) else None
    try:
        raw = decode_base64(signature, 64)
        Ed25519PublicKey.from_public_bytes(decode_base64(public_key, 32)).verify(
            raw, signed_bytes(signed)
        )
    except (Malformed, InvalidSignature, ValueError):
        raise UnverifiedDevice("a signature is missing or wrong") from None


def _check_cross_signing_key(signed: Any, usage: str) -> tuple[UserId, str]:
    _check_object(signed)
    user = check_user_id(_text(signed, "user_id"))
    keys = _check_object(signed.get("keys"))
    if signed.get("usage") != [usage] or len(keys) != 1:
        raise Malformed(f"expected one {usage} key")
    ((name, key),) = keys.items()
    if name != f"ed25519:{key}":
        raise Malformed("a cross-signing key is named after itself")
    return user, check_ed25519(key)


def _check_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Malformed("expected a JSON object")
    return value


def _text(signed: Mapping[str, Any], name: str) -> str:
    value = signed.get(name)
    if not isinstance(value, str):
        raise Malformed(f"`{name}` is missing")
    return value


def _check_signable(value: Any, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise Malformed("nested too deeply")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise Malformed("a name in JSON is text")
            _check_signable(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_signable(inner, depth + 1)
    elif value is not None and not isinstance(value, str | bool | int):
        raise Malformed("only objects, lists, text, whole numbers, true, false and null")
