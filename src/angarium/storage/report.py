"""What a check of a store finds, whichever adapter keeps it."""

from dataclasses import dataclass

PROBLEMS_MAX = 100  # Of each kind; more of them would say no more.


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found. Without problems the store keeps its promises."""

    conversations: int
    messages: int
    blobs: int
    problems: tuple[str, ...]
    orphans: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Orphans are chunks that a crash left behind: wasted space, no problem."""
        return not self.problems
