"""2,000 seeds: the product's own code among faults keeps every invariant."""

import pytest

from angarium.testing.simulation.run import run_seeds

SEEDS = 2000
PARTS = 10


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_invariant_holds_among_faults(part: int) -> None:
    size = SEEDS // PARTS

    summary = run_seeds(range(part * size, (part + 1) * size), jobs=1)

    assert summary.seeds == size
    assert not summary.failed, summary.describe()
    for fault in ("cuts", "lost", "crashes", "pauses", "doorbells_dropped", "store_faults"):
        assert summary.figures[fault] > 0, f"no {fault}: this run proved nothing"
