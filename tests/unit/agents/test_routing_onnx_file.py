import pytest

from angarium.agents.routing.onnx_file import compute_in_int8
from angarium.errors import Misconfigured


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"no model at all", b"\x3a\x7f"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(Misconfigured, match="ONNX"):
        compute_in_int8(content)


def test_a_model_without_int8_weights_stays_as_it_is():
    graph = b"\x0a\x0b" + b"\x0a\x01x\x12\x01y\x22\x03Abs"
    model = b"\x08\x08" + bytes([7 << 3 | 2, len(graph)]) + graph

    assert compute_in_int8(model) == model
