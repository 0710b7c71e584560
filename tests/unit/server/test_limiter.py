"""The limiter: free, then slowed, then refused, then free again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.clock import ManualClock
from angarium.errors import RateLimited
from angarium.limits import RATE_SLOW_S_MAX
from angarium.server.limiter import Limiter


def test_it_slows_before_it_refuses() -> None:
    limiter = Limiter(30, ManualClock())

    waits = [limiter.check("ada") for _ in range(30)]

    assert waits[:15] == [0.0] * 15
    assert waits[15:] == sorted(waits[15:])
    assert 0 < waits[15] < waits[-1] <= RATE_SLOW_S_MAX
    with pytest.raises(RateLimited):
        limiter.check("ada")


def test_who_waits_as_told_is_let_through() -> None:
    clock = ManualClock()
    limiter = Limiter(30, clock)
    for _ in range(30):
        limiter.check("ada")
    with pytest.raises(RateLimited) as refused:
        limiter.check("ada")
    clock.advance(refused.value.after_ms / 1000)

    assert limiter.check("ada") > 0


def test_one_principal_does_not_use_up_anothers_rate() -> None:
    limiter = Limiter(1, ManualClock())
    limiter.check("ada")

    limiter.check("bob")

    with pytest.raises(RateLimited):
        limiter.check("ada")


def test_buckets_are_bounded_and_the_oldest_goes_first() -> None:
    limiter = Limiter(1, ManualClock(), buckets_max=2)
    for name in ("ada", "bob", "eve"):
        limiter.check(name)

    assert limiter.buckets == 2
    limiter.check("ada")  # Forgotten: full again.
    with pytest.raises(RateLimited):
        limiter.check("eve")


def test_refusals_are_counted() -> None:
    refused = []
    limiter = Limiter(1, ManualClock(), refused=lambda: refused.append(1))
    limiter.check("ada")
    with pytest.raises(RateLimited):
        limiter.check("ada")

    assert refused == [1]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.integers(1, 60))
def test_never_more_than_the_burst_and_the_refill_pass(pauses: list[float], rate: int) -> None:
    clock = ManualClock()
    limiter, passed = Limiter(rate, clock), 0
    for pause in pauses:
        clock.advance(pause)
        try:
            limiter.check("ada")
            passed += 1
        except RateLimited:
            pass

    assert passed <= rate + sum(pauses) * rate / 60 + 1e-6
