"""What a long-lived process asks of the interpreter."""

import gc
import resource
import weakref
from collections.abc import Iterator

import pytest

from angarium.limits import OPEN_FILES_MAX
from angarium.server.runtime import allow_open_files, tune_gc


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_what_lives_at_the_start_is_not_looked_at_again() -> None:
    frozen = gc.get_freeze_count()
    tune_gc()
    assert gc.get_freeze_count() > frozen + 1000


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_cyclic_garbage_is_still_found() -> None:
    tune_gc()
    known = weakref.ref(Knot())
    assert gc.isenabled()
    gc.collect()
    assert known() is None


def test_a_node_may_open_as_many_files_as_the_system_lets_it() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        allowed = allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, before[1])
        assert allowed in (before[1], OPEN_FILES_MAX)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
