"""Copy one store into another, resumable, and compare what both hold afterwards."""

from collections.abc import Callable
from dataclasses import dataclass

from angarium.clock import Clock
from angarium.errors import CopyDiffers
from angarium.limits import COPY_ROWS_MAX
from angarium.storage.transfer import KINDS, Progress, Source, Step, Tally, Target

Tell = Callable[[str, str, int], None]
"""Called with what is being done, the kind and its rows so far."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One kind at both ends: (rows, hash) each."""

    kind: str
    source: tuple[int, str]
    target: tuple[int, str]

    @property
    def same(self) -> bool:
        return self.source == self.target


def say_nothing(doing: str, kind: str, rows: int) -> None:
    """A `Tell` for those who do not listen."""


async def copy(
    source: Source,
    target: Target,
    *,
    clock: Clock,
    restart: bool = False,
    tell: Tell = say_nothing,
    show: Callable[[tuple[Compared, ...]], None] = lambda compared: None,
    rows_max: int = COPY_ROWS_MAX,
) -> None:
    """Copy everything and compare both ends; the target can be opened only when they agree.

    Interrupted at any moment it is called again and goes on; `restart` drops what an earlier
    call wrote. `show` is called with what was compared, whether it agrees or not. Raises
    StoreInUse, StoreNotEmpty, CopyDiffers and what the stores raise.
    """
    identity = await source.rest(clock.now_ms())
    if restart:
        await target.drop()
    progress = await target.begin(identity)
    for kind in KINDS:
        progress = await _copy_kind(source, target, kind, progress, tell, rows_max)
    compared = await compare(source, target, clock=clock, tell=tell, rows_max=rows_max)
    show(compared)
    demand_same(compared)
    await target.finish()


async def _copy_kind(
    source: Source, target: Target, kind: str, progress: Progress, tell: Tell, rows_max: int
) -> Progress:
    step = progress.of(kind)
    while not step.done:
        tell("copying", kind, step.rows)
        page = await source.read(kind, step.after, rows_max)
        if page.rows:
            step = Step(step.rows + len(page.rows), page.after)
        else:
            step = Step(step.rows, step.after, done=True)
        progress = progress.moved(kind, step)
        await target.write(kind, page.rows, progress)
    return progress


async def compare(
    source: Source,
    target: Source,
    *,
    clock: Clock,
    tell: Tell = say_nothing,
    rows_max: int = COPY_ROWS_MAX,
) -> tuple[Compared, ...]:
    """Read everything at both ends, and count and hash it."""
    found = []
    for kind in KINDS:
        now_ms = clock.now_ms()  # Anew: what lapses goes on lapsing while large kinds are read.
        ends = [await _tally(end, kind, now_ms, tell, rows_max) for end in (source, target)]
        found.append(Compared(kind, ends[0], ends[1]))
    return tuple(found)


async def _tally(
    end: Source, kind: str, now_ms: int, tell: Tell, rows_max: int
) -> tuple[int, str]:
    tally = Tally(kind, now_ms)
    after = ""
    while True:
        tell("comparing", kind, tally.rows)
        page = await end.read(kind, after, rows_max)
        if not page.rows:
            return tally.rows, tally.digest
        for row in page.rows:
            tally.add(row)
        after = page.after


def demand_same(compared: tuple[Compared, ...]) -> None:
    """Raises CopyDiffers, naming the kinds, unless all agree."""
    different = [each.kind for each in compared if not each.same]
    if different:
        raise CopyDiffers(
            f"the stores differ in {', '.join(different)}: stop every node of the source, "
            "then copy again with `--restart`"
        )
