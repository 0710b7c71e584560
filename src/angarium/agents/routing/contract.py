"""What the router asks of a model and of the examples. Imports nothing that is an extra."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from angarium.agents.registry import Roster
from angarium.agents.routing.rules import Guess

Vectors = Any  # A numpy array of float32 with rows of length one; numpy comes with an extra.


class Embedder(Protocol):
    """`unlike` is the cosine of texts that have nothing to do with each other."""

    dim: int
    unlike: float

    def embed(self, texts: Sequence[str]) -> Vectors:
        """A row of `dim` for each text. Computes in the calling thread."""
        ...


class Examples(Protocol):
    """What the agents' examples say. `version` is empty until they are read, and equal where
    answers are."""

    version: str

    def update(self, roster: Roster) -> None:
        """These are the agents now. Cheap where nothing has changed."""
        ...

    async def ready(self) -> None:
        """Wait until the examples of the agents told last are read. Raises Misconfigured for a
        model that does not load."""
        ...

    async def guess(self, text: str, allowed: Collection[str], sticky: str) -> Guess | None:
        """None where the allowed agents have no examples. Raises Busy and Misconfigured."""
        ...

    async def close(self) -> None: ...
