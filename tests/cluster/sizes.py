"""The two forms of a row: short ones that run with every other test, and the whole ones."""

from dataclasses import dataclass

import pytest

WHOLE_TIMEOUT_S = 600


@dataclass(frozen=True)
class Size:
    """How much load, and for how long."""

    clients: int
    messages_per_s: float
    seconds: float
    settle_s: float = 60.0


def sizes(short: Size, whole: Size) -> pytest.MarkDecorator:
    """Both, as the parameter `size`; the whole one belongs to `make test-cluster`."""
    marks = (pytest.mark.cluster, pytest.mark.timeout(WHOLE_TIMEOUT_S))
    return pytest.mark.parametrize(
        "size",
        [pytest.param(short, id="short"), pytest.param(whole, id="whole", marks=marks)],
    )
