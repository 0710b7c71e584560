"""A node whose wall clock is wrong: `python -m angarium.testing.skewed FILE serve ...`.

FILE holds the seconds it is ahead (negative: behind). They are read at each look at the clock,
so a test can step it while the node runs. Monotonic time is as it is, as on a real machine.
"""

import runpy
import sys
import time
from pathlib import Path


def skew(file: Path) -> None:
    """From here on this process' wall clock is off by what the file says."""
    right_ns = time.time_ns

    def wrong_ns() -> int:
        return right_ns() + int(float(file.read_text()) * 1e9)

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9


if __name__ == "__main__":
    skew(Path(sys.argv.pop(1)))
    runpy.run_module("angarium", run_name="__main__", alter_sys=True)
