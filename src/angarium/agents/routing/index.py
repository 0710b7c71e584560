"""The agents' examples as vectors, and what they say of a message. Pure, and needs numpy.

Every example of an agent adds `exp(SHARPNESS * (cosine - 1))`; the agent with the largest mean
wins. Nothing is trained: an agent is added by computing the vectors of its examples.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from angarium.agents.routing.embedders import Vectors, unit_rows
from angarium.agents.routing.rules import Guess
from angarium.limits import ROUTE_FITTED_MAX

Row = NDArray[np.float32]
SHARPNESS = 12.0
_DOUBT = 0.05  # How much an undecided share lowers the score that the bound is for.
_CENTRE_AFTER = 40  # So many examples count half in their common mean.
_BLOCK = 256  # Examples compared with all others at once.


@dataclass(frozen=True, slots=True)
class Example:
    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class Tried:
    """One example, looked at as if it were a message: who would have got it."""

    example: Example
    guess: str
    like: str
    nearest: float


class ExampleIndex:
    """`vectors` are unit rows, one for each example. `nobody` are those of texts that no agent
    is for. `unlike` is the cosine that texts without relation have in this model: it counts
    as 0. `keep` is the share of fitting messages that the bound must let through."""

    def __init__(
        self,
        examples: Sequence[Example],
        vectors: Vectors,
        nobody: Vectors,
        *,
        keep: float,
        unlike: float = 0.0,
    ) -> None:
        self.examples = tuple(examples)
        self._vectors, self._nobody, self._unlike = vectors, nobody, unlike
        self.agents = tuple(dict.fromkeys(example.agent for example in examples))
        place = {agent: n for n, agent in enumerate(self.agents)}
        self._owner = np.array([place[example.agent] for example in examples], np.intp)
        self._owned = np.zeros((len(examples), len(self.agents)), np.float32)
        self._owned[np.arange(len(examples)), self._owner] = 1
        self._counts = self._owned.sum(axis=0)
        # What all examples share tells nothing apart.
        weight = len(examples) / (len(examples) + _CENTRE_AFTER)
        mean = vectors.mean(axis=0) if len(examples) else np.zeros(vectors.shape[1])
        self._centre = (mean * weight).astype(np.float32)
        self._centred = unit_rows(vectors - self._centre)
        self.bound = self._fit(keep)

    def look(self, vector: Row, allowed: Collection[str], sticky: str = "") -> Guess | None:
        """What the examples of the `allowed` agents say; None where they have none."""
        open_to = np.array([agent in allowed for agent in self.agents], bool)
        if not open_to.any():
            return None
        cosines = self._vectors @ vector
        density = self._density(vector[None])[0]
        density = np.where(open_to, density, 0.0)
        best = int(density.argmax())
        total = float(density.sum()) or 1.0
        place = int(np.where(self._owner == best, cosines, -2.0).argmax())
        nearest = self._scaled(float(cosines[place]))
        share = float(density[best]) / total
        kept = float(density[self.agents.index(sticky)]) if sticky in self.agents else 0.0
        return Guess(
            agent=self.agents[best],
            nearest=nearest,
            example=self.examples[place].text,
            share=share,
            kept_share=kept / total,
            fits=_score(nearest, share) >= self.bound
            and float(cosines[place]) >= self._stranger(vector),
        )

    def try_all(self) -> list[Tried]:
        """Each example against the others."""
        found = []
        for n, cosines, density in self._left_out(1):
            best = int(density.argmax())
            like = int(np.where(self._owner == best, cosines, -2.0).argmax())
            found.append(
                Tried(
                    example=self.examples[n],
                    guess=self.agents[best],
                    like=self.examples[like].text,
                    nearest=self._scaled(float(cosines[like])),
                )
            )
        return found

    def _fit(self, keep: float) -> float:
        """The bound that lets `keep` of the examples through, each left out in its turn. Those
        that lie nearer to what is for nobody are lost already, and count."""
        scores: list[float] = []
        lost = 0
        for n, cosines, density in self._left_out(1 + len(self.examples) // ROUTE_FITTED_MAX):
            best = int(density.argmax())
            nearest = float(np.where(self._owner == best, cosines, -2.0).max())
            if nearest < self._stranger(self._vectors[n]):
                lost += 1
            else:
                share = float(density[best] / (density.sum() or 1.0))
                scores.append(_score(self._scaled(nearest), share))
        may_lose = max(0, int((1 - keep) * (len(scores) + lost)) - lost)
        return sorted(scores)[min(may_lose, len(scores) - 1)] if scores else -1.0

    def _left_out(self, step: int) -> Iterator[tuple[int, Row, Row]]:
        """For every `step`th example: the cosines to the others, and the agents' densities
        without it."""
        places = np.arange(0, len(self.examples), step)
        for start in range(0, len(places), _BLOCK):
            rows = places[start : start + _BLOCK]
            cosines = self._vectors[rows] @ self._vectors.T
            cosines[np.arange(len(rows)), rows] = -2.0
            weights = np.exp(SHARPNESS * (self._centred[rows] @ self._centred.T - 1))
            weights[np.arange(len(rows)), rows] = 0.0
            counts = np.maximum(self._counts[None] - self._owned[rows], 1)
            densities = weights @ self._owned / counts
            for n, row in enumerate(rows):
                yield int(row), cosines[n], densities[n]

    def _stranger(self, vector: Row) -> float:
        return float((self._nobody @ vector).max()) if len(self._nobody) else -1.0

    def _density(self, vectors: Vectors) -> NDArray[np.float32]:
        centred = unit_rows(vectors - self._centre)
        weights = np.exp(SHARPNESS * (centred @ self._centred.T - 1))
        return np.asarray(weights @ self._owned / np.maximum(self._counts, 1), np.float32)

    def _scaled(self, cosine: float) -> float:
        return max(0.0, (cosine - self._unlike) / (1 - self._unlike))


def _score(nearest: float, share: float) -> float:
    return nearest + _DOUBT * float(np.log(max(share, 1e-6)))
