"""Each guard is needed: without it the simulation finds the damage."""

import pytest

from angarium.testing.simulation.run import Summary, run_seeds
from angarium.testing.simulation.switches import Switches
from angarium.testing.simulation.world import simulate

SEEDS_MAX = 300


def search(guard: str) -> Summary:
    """Seeds without `guard` until one fails."""
    switches = Switches.without(guard)
    return run_seeds(range(SEEDS_MAX), jobs=1, switches=switches, stop_at_first=True)


def check_caught(guard: str, *named: str) -> None:
    summary = search(guard)
    assert summary.failed, f"{guard} was off for {SEEDS_MAX} seeds and nobody noticed"
    sentences = [sentence for found in summary.failed.values() for sentence in found]
    assert any(sentence.startswith(named) for sentence in sentences), sentences


pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_switching_off_the_unique_sequence_is_caught() -> None:
    check_caught("unique_sequence", "I2")


def test_switching_off_the_unique_key_is_caught() -> None:
    check_caught("unique_key", "I1")


def test_switching_off_the_predecessor_check_is_caught() -> None:
    check_caught("predecessor", "I5")


def test_switching_off_the_head_check_is_caught() -> None:
    check_caught("head_check", "I3")


def test_switching_off_fencing_is_caught() -> None:
    check_caught("fencing", "I3", "I10", "a ratchet step")


def test_switching_off_the_turn_journal_is_caught() -> None:
    check_caught("journal", "I10")


def test_an_unknown_guard_is_refused() -> None:
    with pytest.raises(ValueError, match="no guard is called"):
        Switches.without("nothing")


@pytest.mark.parametrize("seed", [3, 19])  # 19 runs on the product's own ratchet.
def test_a_seed_replays_exactly(seed: int) -> None:
    assert simulate(seed) == simulate(seed)
