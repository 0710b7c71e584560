"""The form of a ciphertext, its Matrix twin, and padding."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.e2ee.wire import OlmCiphertext, pad, unpad
from angarium.errors import Malformed, TooLarge
from angarium.limits import CIPHERTEXT_BYTES_MAX, PLAINTEXT_BYTES_MAX

KEY = bytes(range(32))
RECIPIENT = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"


@given(st.integers(0, 1), st.binary(min_size=1, max_size=300))
def test_packing_and_the_matrix_shape_lose_nothing(kind: int, body: bytes) -> None:
    sealed = OlmCiphertext(kind, KEY, body)

    assert OlmCiphertext.unpack(sealed.pack()) == sealed
    assert OlmCiphertext.from_matrix(sealed.to_matrix(RECIPIENT), RECIPIENT) == sealed


@pytest.mark.parametrize(
    "packed",
    [b"", b"\x01\x00", b"\x02\x00" + KEY + b"x", b"\x01\x02" + KEY + b"x", b"\x01\x00" + KEY],
)
def test_other_bytes_are_no_ciphertext(packed: bytes) -> None:
    with pytest.raises(Malformed):
        OlmCiphertext.unpack(packed)


def test_a_ciphertext_over_the_limit_is_not_read() -> None:
    with pytest.raises(TooLarge):
        OlmCiphertext.unpack(b"\x01\x00" + bytes(CIPHERTEXT_BYTES_MAX))


def test_a_matrix_object_for_another_device_or_algorithm_is_malformed() -> None:
    matrix = OlmCiphertext(1, KEY, b"body").to_matrix(RECIPIENT)

    broken = [matrix | {"algorithm": "m.megolm.v1.aes-sha2"}, matrix | {"ciphertext": {}}, {}]
    for content in broken:
        with pytest.raises(Malformed):
            OlmCiphertext.from_matrix(content, RECIPIENT)


@given(st.binary(max_size=6000))
def test_padding_is_undone(plaintext: bytes) -> None:
    assert unpad(pad(plaintext)) == plaintext


def test_padded_sizes_are_few_and_cost_little() -> None:
    sizes = sorted({len(pad(bytes(n))) for n in range(0, PLAINTEXT_BYTES_MAX - 3, 37)})

    assert all(size % 256 == 0 for size in sizes if size <= 4096)
    assert len(sizes) <= 16 + 22
    steps = itertools.pairwise(sizes[15:])
    assert all(after <= before * 1.125 for before, after in steps)
    assert len(pad(bytes(PLAINTEXT_BYTES_MAX - 4))) == PLAINTEXT_BYTES_MAX


def test_more_than_fits_into_a_ciphertext_is_refused() -> None:
    with pytest.raises(TooLarge):
        pad(bytes(PLAINTEXT_BYTES_MAX - 3))


@pytest.mark.parametrize(
    "padded", [b"", b"\x00\x00", b"\x00\x00\x00\x02x", b"\x00\x00\x00\x01x\x00\x01"]
)
def test_wrong_padding_is_malformed(padded: bytes) -> None:
    with pytest.raises(Malformed):
        unpad(padded)
