"""The page on delivery names a test for every fault, and each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "delivery.md").read_text()
ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", PAGE, re.MULTILINE)
GUARDS = (
    "unique (conversation, sequence)",
    "unique (conversation, device, key)",
    "majority",
    "head check",
    "predecessor check",
    "fencing",
)
NAME = re.compile(r"`(test_\w+|\w+Model)`")


def written() -> set[str]:
    """Every test function and state machine there is."""
    sources = (path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return {
        name
        for source in sources
        for name in re.findall(r"^(?:async )?(?:def|class) (test_\w+|\w+Model)\b", source, re.M)
    }


def test_every_fault_of_the_matrix_has_a_test() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 21))
    without = [number for number, cells in ROWS if not NAME.search(cells)]
    assert without == ["20"]  # Its tests stand in the table of guards.


def test_every_guard_has_a_test_that_misses_it() -> None:
    for guard in GUARDS:
        rows = [line for line in PAGE.splitlines() if line.startswith(f"| {guard}")]
        assert len(rows) == 1, guard
        assert NAME.search(rows[0]), guard


def test_every_test_that_is_named_exists() -> None:
    named = set(NAME.findall(PAGE))
    assert len(named) > 60
    assert named - written() == set()
