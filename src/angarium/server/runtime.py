"""What a process that holds many long-lived connections asks of the machine."""

import gc
import resource

from angarium.limits import OPEN_FILES_MAX

_YOUNG_OBJECTS, _MIDDLE_ROUNDS, _OLD_ROUNDS = 50_000, 20, 1000


def tune_gc() -> None:
    """Call once, when everything is built: what lives now is never looked at again.

    Young objects are looked at rarely and old ones hardly ever, so that no collection stops the
    loop for long. Cyclic garbage is still found.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _MIDDLE_ROUNDS, _OLD_ROUNDS)


def allow_open_files() -> int:
    """Let the process have as many open files as it may, OPEN_FILES_MAX at most; returns the
    number. Each connection is one, and the usual limit of a shell is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return OPEN_FILES_MAX
    most = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)
