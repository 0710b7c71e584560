"""Which guards a simulated product keeps. All of them, except where a test takes one away."""

from dataclasses import dataclass, fields, replace

from angarium.storage.sqlite.guards import Guards


@dataclass(frozen=True, slots=True)
class Switches:
    """A suite that does not notice one of these missing proves nothing about it."""

    unique_sequence: bool = True
    unique_key: bool = True
    predecessor: bool = True
    head_check: bool = True
    fencing: bool = True
    journal: bool = True

    @classmethod
    def without(cls, guard: str) -> "Switches":
        """Everything but `guard`. Raises ValueError for an unknown name."""
        names = [field.name for field in fields(cls)]
        if guard not in names:
            raise ValueError(f"no guard is called {guard}; there are {', '.join(names)}")
        return replace(cls(), **{guard: False})

    @property
    def of_store(self) -> Guards:
        return Guards(
            unique_sequence=self.unique_sequence,
            unique_key=self.unique_key,
            predecessor=self.predecessor,
            fencing=self.fencing,
        )


ALL_ON = Switches()
