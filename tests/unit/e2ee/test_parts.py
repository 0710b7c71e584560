"""Parts of a streamed reply under the key of the question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.e2ee.parts import open_part, seal_part
from angarium.errors import Undecryptable
from angarium.ids import DeviceId

STREAM = bytes(range(32))
GATEWAY = DeviceId("GATEWAY1")


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_a_part_opens_at_its_place(plaintext: bytes, index: int) -> None:
    sealed = seal_part(STREAM, GATEWAY, "question", index, plaintext)

    assert open_part(STREAM, GATEWAY, "question", index, sealed) == plaintext


@pytest.mark.parametrize(
    ("stream", "device", "ref", "index"),
    [
        (bytes(32), GATEWAY, "question", 3),
        (STREAM, DeviceId("GHOST999"), "question", 3),
        (STREAM, GATEWAY, "another", 3),
        (STREAM, GATEWAY, "question", 4),
        (b"short", GATEWAY, "question", 3),
    ],
)
def test_a_part_does_not_open_elsewhere(
    stream: bytes, device: DeviceId, ref: str, index: int
) -> None:
    sealed = seal_part(STREAM, GATEWAY, "question", 3, b"text")

    with pytest.raises(Undecryptable):
        open_part(stream, device, ref, index, sealed)


def test_a_changed_or_cut_part_does_not_open() -> None:
    sealed = seal_part(STREAM, GATEWAY, "question", 0, b"text")
    spoiled = [
        sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :] for at in range(len(sealed))
    ]

    for wrong in (*spoiled, sealed[:-1], sealed[:8], b""):
        with pytest.raises(Undecryptable):
            open_part(STREAM, GATEWAY, "question", 0, wrong)


def test_the_same_part_is_never_sealed_the_same_way() -> None:
    sealed = {seal_part(STREAM, GATEWAY, "question", 0, b"text") for _ in range(50)}

    assert len({ciphertext[:16] for ciphertext in sealed}) == 50


def test_sealing_needs_a_whole_key() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal_part(b"", GATEWAY, "question", 0, b"text")
