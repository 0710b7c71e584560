"""Frames are joined into as few messages as the limits allow, and none is over them."""

import pytest

from angarium.limits import FRAME_BYTES_MAX
from angarium.protocol.codec import Codec, JsonCodec, MsgpackCodec, messages_of
from angarium.protocol.frames import Sealed, Send


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
@pytest.mark.parametrize("size", [100, 32_722, 37_403, 60_000])
def test_no_message_of_several_frames_is_over_the_limit(codec: Codec, size: int) -> None:
    """Among them some that would fill a message to the last byte."""
    frames = [Send(n, "c", f"key{n}", n, [Sealed("D", b"x" * size)]) for n in range(18)]
    payloads = messages_of(codec, [codec.encode((frame,)) for frame in frames])
    assert max(map(len, payloads)) <= FRAME_BYTES_MAX
    assert [f for payload in payloads for f in codec.decode_client(payload)] == frames
    assert len(payloads) <= 1 + 18 * (size + 100) * 4 // 3 // (FRAME_BYTES_MAX // 2)
