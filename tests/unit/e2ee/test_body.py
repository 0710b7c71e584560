"""The content of a message survives packing."""

import msgspec
import pytest

from angarium.e2ee.body import Body, FileRef, pack, unpack


def test_a_body_comes_back_as_it_was() -> None:
    file = FileRef("blob", bytes(32), bytes(32), "cat.png", "image/png", 3, 1)
    body = Body(type="question", text="Which?", options=["a", "b"], files=[file], ref="k")

    assert unpack(pack(body)) == body


@pytest.mark.parametrize("packed", [b"", b"text", b"\x81\xa4type\xa5other"])
def test_other_bytes_are_no_body(packed: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack(packed)
