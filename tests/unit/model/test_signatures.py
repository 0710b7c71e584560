"""Signed public objects: what passes, and each way to fail."""

import copy
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from angarium.errors import Malformed, UnverifiedDevice
from angarium.model import signatures
from angarium.model.signatures import (
    canonical_json,
    check_curve25519,
    check_device_keys,
    check_ed25519,
    check_identity,
    check_signed_key,
    decode_base64,
    encode_base64,
    is_cross_signed,
    signed_bytes,
)

USER, DEVICE = "@ada:example", "ABCDEFGH"
PRIME = 2**255 - 19
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def public(key: Ed25519PrivateKey) -> str:
    return encode_base64(key.public_key().public_bytes_raw())


def sign(key: Ed25519PrivateKey, name: str, signed: dict[str, Any]) -> dict[str, Any]:
    signature = encode_base64(key.sign(signed_bytes(signed)))
    signed.setdefault("signatures", {}).setdefault(USER, {})[f"ed25519:{name}"] = signature
    return signed


class Signed:
    """One user's keys and objects, all properly signed."""

    def __init__(self) -> None:
        self.master, self.self_signing = (Ed25519PrivateKey.generate() for _ in range(2))
        self.device_key = Ed25519PrivateKey.generate()
        self.curve = encode_base64(X25519PrivateKey.generate().public_key().public_bytes_raw())
        self.master_object = self.cross_signing("master", public(self.master))
        self.self_signing_object = sign(
            self.master,
            public(self.master),
            self.cross_signing("self_signing", public(self.self_signing)),
        )
        keys = {
            f"curve25519:{DEVICE}": self.curve,
            f"ed25519:{DEVICE}": public(self.device_key),
        }
        self.device_keys: dict[str, Any] = {
            "user_id": USER,
            "device_id": DEVICE,
            "algorithms": [signatures.OLM_ALGORITHM],
            "keys": keys,
        }
        sign(self.device_key, DEVICE, self.device_keys)
        sign(self.self_signing, public(self.self_signing), self.device_keys)
        self.one_time_key = sign(self.device_key, DEVICE, {"key": self.curve})

    @staticmethod
    def cross_signing(usage: str, key: str) -> dict[str, Any]:
        return {"user_id": USER, "usage": [usage], "keys": {f"ed25519:{key}": key}}


@pytest.fixture(scope="module")
def _signed() -> Signed:
    return Signed()


@pytest.fixture
def signed(_signed: Signed) -> Signed:
    """A copy whose objects a test may spoil."""
    fresh = object.__new__(Signed)
    for name, value in vars(_signed).items():
        setattr(fresh, name, copy.deepcopy(value) if isinstance(value, dict) else value)
    return fresh


@given(JSON)
def test_canonical_json_equals_the_standard_library_sorted_and_compact(value: Any) -> None:
    try:
        expected = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
    except UnicodeEncodeError:
        with pytest.raises(Malformed):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@pytest.mark.parametrize("value", [1.5, {"a": [1.0]}, {1: 2}, {"a": b"x"}, "\ud800"])
def test_what_has_no_single_spelling_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        canonical_json(value)


def test_a_deep_object_is_malformed_instead_of_a_crash() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]

    with pytest.raises(Malformed):
        canonical_json(value)


def test_one_key_has_one_spelling() -> None:
    text = encode_base64(bytes(range(32)))

    assert decode_base64(text, 32) == bytes(range(32))
    for other in (text + "=", text[:-1] + "9", text + "\n", text[:-1], "*" * 43, None, 7):
        with pytest.raises(Malformed):
            decode_base64(other, 32)


def test_every_low_order_curve_key_that_x25519_refuses_is_refused(signed: Signed) -> None:
    order_eight = signatures._ORDER_EIGHT_U
    own = X25519PrivateKey.generate()
    for u in (0, 1, *order_eight, PRIME - 1, PRIME, PRIME + 1):
        for raw in (u.to_bytes(32, "little"), (u | 1 << 255).to_bytes(32, "little")):
            with pytest.raises(ValueError):
                own.exchange(X25519PublicKey.from_public_bytes(raw))
            with pytest.raises(Malformed):
                check_curve25519(encode_base64(raw))
    assert check_curve25519(signed.curve) == signed.curve


def test_an_ed25519_key_under_which_anybody_can_sign_is_refused(signed: Signed) -> None:
    y = signatures._ORDER_EIGHT_Y
    for value in (0, 1, PRIME - 1, y, PRIME - y, PRIME, PRIME + 1):
        for raw in (value.to_bytes(32, "little"), (value | 1 << 255).to_bytes(32, "little")):
            with pytest.raises(Malformed):
                check_ed25519(encode_base64(raw))
    assert check_ed25519(public(signed.master)) == public(signed.master)


def test_a_properly_signed_device_passes(signed: Signed) -> None:
    device = check_device_keys(signed.device_keys)

    assert (device.user, device.id) == (USER, DEVICE)
    assert (device.curve25519, device.ed25519) == (signed.curve, public(signed.device_key))
    assert is_cross_signed(signed.device_keys, signed.self_signing_object)


@pytest.mark.parametrize(
    ("field", "value"),
    [("user_id", "@eve:example"), ("device_id", "ABCDEFGX"), ("algorithms", ["m.olm", "x"])],
)
def test_a_changed_field_of_a_device_is_refused(signed: Signed, field: str, value: Any) -> None:
    signed.device_keys[field] = value

    with pytest.raises((Malformed, UnverifiedDevice)):
        check_device_keys(signed.device_keys)


def test_a_swapped_curve_key_breaks_both_signatures(signed: Signed) -> None:
    other = encode_base64(X25519PrivateKey.generate().public_key().public_bytes_raw())
    signed.device_keys["keys"][f"curve25519:{DEVICE}"] = other

    with pytest.raises(UnverifiedDevice):
        check_device_keys(signed.device_keys)
    assert not is_cross_signed(signed.device_keys, signed.self_signing_object)


def test_unsigned_extras_do_not_matter(signed: Signed) -> None:
    signed.device_keys["unsigned"] = {"name": "kitchen", "temperature": 0.5}

    assert check_device_keys(signed.device_keys).id == DEVICE


@pytest.mark.parametrize("broken", [None, [], {}, {"user_id": 4}, {"user_id": USER}, "text"])
def test_shapes_that_are_no_device_are_malformed(broken: Any) -> None:
    with pytest.raises(Malformed):
        check_device_keys(broken)


@pytest.mark.parametrize(
    "holes", [None, [], {USER: None}, {USER: {f"ed25519:{DEVICE}": "AAAA"}}, {USER: []}]
)
def test_a_missing_signature_is_unverified(signed: Signed, holes: Any) -> None:
    signed.device_keys["signatures"] = holes

    with pytest.raises(UnverifiedDevice):
        check_device_keys(signed.device_keys)


def test_an_identity_passes_and_names_its_keys(signed: Signed) -> None:
    identity = check_identity(signed.master_object, signed.self_signing_object)

    assert (identity.user, identity.master) == (USER, public(signed.master))
    assert identity.self_signing == public(signed.self_signing)


def test_a_self_signing_key_of_another_master_is_refused(signed: Signed) -> None:
    with pytest.raises(UnverifiedDevice):
        check_identity(Signed().master_object, signed.self_signing_object)


def test_a_master_key_does_not_pass_as_self_signing_key(signed: Signed) -> None:
    with pytest.raises(Malformed):
        check_identity(signed.master_object, signed.master_object)
    with pytest.raises(Malformed):
        check_identity(signed.self_signing_object, signed.self_signing_object)


def test_keys_of_two_users_are_no_identity(signed: Signed) -> None:
    signed.self_signing_object["user_id"] = "@eve:example"

    with pytest.raises(Malformed):
        check_identity(signed.master_object, signed.self_signing_object)
    assert not is_cross_signed(signed.device_keys, signed.self_signing_object)


def test_a_key_not_named_after_itself_is_malformed(signed: Signed) -> None:
    signed.master_object["keys"] = {"ed25519:x": public(signed.master)}

    with pytest.raises(Malformed):
        check_identity(signed.master_object, signed.self_signing_object)


def test_an_unsigned_device_is_not_cross_signed(signed: Signed) -> None:
    assert not is_cross_signed(Signed().device_keys, signed.self_signing_object)
    assert not is_cross_signed(signed.device_keys, {"user_id": USER})


def test_a_signed_one_time_key_passes(signed: Signed) -> None:
    device = check_device_keys(signed.device_keys)

    assert check_signed_key(signed.one_time_key, device) == signed.curve
    fallback = sign(signed.device_key, DEVICE, {"key": signed.curve, "fallback": True})
    assert check_signed_key(fallback, device) == signed.curve


def test_a_one_time_key_swapped_by_the_server_is_refused(signed: Signed) -> None:
    device = check_device_keys(signed.device_keys)
    signed.one_time_key["key"] = encode_base64(bytes(range(32)))

    with pytest.raises(UnverifiedDevice):
        check_signed_key(signed.one_time_key, device)


def test_a_signed_zero_key_is_refused(signed: Signed) -> None:
    device = check_device_keys(signed.device_keys)
    zero = sign(signed.device_key, DEVICE, {"key": encode_base64(bytes(32))})

    with pytest.raises(Malformed):
        check_signed_key(zero, device)


def test_another_signed_object_does_not_pass_as_a_one_time_key(signed: Signed) -> None:
    device = check_device_keys(signed.device_keys)
    other = sign(signed.device_key, DEVICE, {"key": signed.curve, "user_id": USER})

    for wrong in (other, signed.device_keys, None, {"key": signed.curve, "fallback": 3}):
        with pytest.raises(Malformed):
            check_signed_key(wrong, device)  # type: ignore[arg-type]
