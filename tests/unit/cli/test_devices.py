"""What counts as having compared a fingerprint."""

import pytest

from angarium.cli.devices import is_end_of

SHOWN = "11111 22222 33333 44444 55555 67890"


@pytest.mark.parametrize("typed", ["67890", " 67890 ", "55555 67890", "5567890", SHOWN])
def test_the_last_digits_and_more_are_taken(typed: str) -> None:
    assert is_end_of(SHOWN, typed)


@pytest.mark.parametrize(
    "typed", ["", "yes", "7890", "67891", "11111", "0" + SHOWN, "\u0666" * 5, "67890 11111"]
)
def test_anything_else_is_not(typed: str) -> None:
    assert not is_end_of(SHOWN, typed)
