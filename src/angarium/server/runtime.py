"""How the interpreter runs a process that holds many long-lived connections."""

import gc
import sys

_YOUNG_OBJECTS, _MIDDLE_ROUNDS, _OLD_ROUNDS = 50_000, 20, 1000
_SWITCH_INTERVAL_S = 0.0005


def tune_gc() -> None:
    """Call once, when everything is built: what lives now is never looked at again.

    Young objects are looked at rarely and old ones hardly ever, so that no collection stops the
    loop for long. Cyclic garbage is still found.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _MIDDLE_ROUNDS, _OLD_ROUNDS)


def tune_threads() -> None:
    """Call once: a busy loop lets the store's thread on quickly.

    SQLite gives up the interpreter with each step and must win it back; at Python's default of
    5 ms a commit would wait that long several times.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
