"""The agents' examples as vectors, and what they say of a message. Pure, and needs numpy.

Every example of an agent adds `exp(SHARPNESS * (cosine - 1))`; the agent with the largest mean
wins. Nothing is trained: an agent is added by computing the vectors of its examples.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from angarium.agents.routing.embedders import Vectors
from angarium.agents.routing.lint import Example, Tried
from angarium.agents.routing.rules import Guess
from angarium.limits import ROUTE_FITTED_MAX

Row = NDArray[np.float32]
SHARPNESS = 12.0
_DOUBT = 0.05  # How much an undecided share lowers the score that the bound is for.
_CENTRE_AFTER = 40  # So many examples count half in their common mean.
_TINY = 1e-9
_MEANT = 0.5  # What is for nobody, and as near to an example, is for that agent.
_BLOCK = 256  # Examples compared with all others at once.


class ExampleIndex:
    """`vectors` are unit rows, one for each example. `nobody` are those of texts that most
    likely no agent is for. `unlike` is the cosine that texts without relation have in this
    model: it counts as 0. `keep` is the share of fitting messages that must pass the bound."""

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
        self._vectors, self._unlike = vectors, unlike
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
        self._from_centre = np.linalg.norm(vectors - self._centre, axis=1) + _TINY
        self._towards = self._products(self._centre)
        self.bound = -1.0
        self.bound = self._fit(keep, nobody)

    def look(self, vector: Row, allowed: Collection[str], sticky: str = "") -> Guess | None:
        """What the examples of the `allowed` agents say; None where they have none."""
        open_to = np.array([agent in allowed for agent in self.agents], bool)
        if not open_to.any():
            return None
        cosines = self._products(vector)
        density = np.where(open_to, self._density(cosines, vector), 0.0)
        best = int(density.argmax())
        total = float(density.sum()) or 1.0
        place = int(np.where(self._owner == best, cosines, -2.0).argmax())
        nearest = self._scaled(float(cosines[place]))
        share = float(density[best]) / total
        kept = float(density[self.agents.index(sticky)]) if sticky in self.agents else 0.0
        score = _score(nearest, share)
        return Guess(
            agent=self.agents[best],
            nearest=nearest,
            example=self.examples[place].text,
            share=share,
            kept_share=kept / total,
            fits=score >= self.bound,
            score=score,
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

    def _fit(self, keep: float, nobody: Vectors) -> float:
        """The bound that lets `keep` of the examples through, each left out in its turn; with
        few of them that lets nearly everything pass, so three quarters of what is for nobody
        must not.
        """
        scores: list[float] = []
        for _, cosines, density in self._left_out(1 + len(self.examples) // ROUTE_FITTED_MAX):
            best = int(density.argmax())
            nearest = float(np.where(self._owner == best, cosines, -2.0).max())
            share = float(density[best] / (density.sum() or 1.0))
            scores.append(_score(self._scaled(nearest), share))
        if not scores:
            return 0.0
        lost = min(int((1 - keep) * len(scores)), len(scores) - 1)
        strangers = [self._strange(row) for row in nobody]
        others = sorted(score for score in strangers if score is not None)
        return max(sorted(scores)[lost], *others[3 * len(others) // 4 :][:1], -1.0)

    def _strange(self, vector: Row) -> float | None:
        """The score of what is for nobody; None where an agent is for it after all."""
        guess = self.look(vector, self.agents)
        return None if guess is None or guess.nearest >= _MEANT else guess.score

    def _left_out(self, step: int) -> Iterator[tuple[int, Row, Row]]:
        """For every `step`th example: the cosines to the others, and the agents' densities
        without it."""
        places = np.arange(0, len(self.examples), step)
        for start in range(0, len(places), _BLOCK):
            rows = places[start : start + _BLOCK]
            cosines = self._vectors[rows] @ self._vectors.T
            centred = self._centred(cosines, self._towards[rows], self._from_centre[rows])
            weights = np.exp(SHARPNESS * (centred - 1))
            cosines[np.arange(len(rows)), rows] = -2.0
            weights[np.arange(len(rows)), rows] = 0.0
            counts = np.maximum(self._counts[None] - self._owned[rows], 1)
            densities = weights @ self._owned / counts
            for n, row in enumerate(rows):
                yield int(row), cosines[n], densities[n]

    def _density(self, cosines: Row, vector: Row) -> Row:
        """Each agent's mean likeness to a message."""
        towards = float(np.dot(vector, self._centre))
        length = float(np.linalg.norm(vector - self._centre)) + _TINY
        centred = self._centred(cosines[None], np.array([towards]), np.array([length]))[0]
        weights = np.exp(SHARPNESS * (centred - 1))
        sums = np.bincount(self._owner, weights, len(self.agents))
        return np.asarray(sums / np.maximum(self._counts, 1), np.float32)

    def _centred(self, cosines: Row, towards: Row, lengths: Row) -> Row:
        """Cosines as seen from the centre, out of those seen from the origin."""
        squared = float(np.dot(self._centre, self._centre))
        products = cosines - towards[:, None] - self._towards[None] + squared
        return np.asarray(products / (lengths[:, None] * self._from_centre[None]), np.float32)

    def _products(self, vector: Row) -> Row:
        # Not `@`: for a product this small the threads that it wakes cost more than they save.
        return np.asarray(np.einsum("ij,j->i", self._vectors, vector), np.float32)

    def _scaled(self, cosine: float) -> float:
        return max(0.0, (cosine - self._unlike) / (1 - self._unlike))


def _score(nearest: float, share: float) -> float:
    return nearest + _DOUBT * float(np.log(max(share, 1e-6)))
