"""Finds what was said earlier, by meaning where there is an embedder, else by words.

An exact scan over one person's exchanges with one agent, at most RECALL_EXCHANGES_MAX of them.
Vectors are made when first asked for and kept sealed like the text, which they could betray.
"""

import asyncio
import math
import operator
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from angarium.agents.contract import Recalled
from angarium.agents.people import Exchange, People, PersonNotes
from angarium.clock import Clock
from angarium.errors import AngariumError
from angarium.limits import (
    RECALL_CHARS_MAX,
    RECALL_EMBEDDED_AT_ONCE,
    RECALL_KEPT_S,
    RECALLED_MAX,
)
from angarium.storage.contract import Write
from angarium.telemetry.log import get_logger

_WORD = re.compile(r"\w+")
_WORDS_WEIGHT = 0.5  # Shared words are a weaker sign than a near meaning.
_SCANNED_IN_A_ROW = 64  # Then others get a turn on the loop.
log = get_logger("angarium.agents")


class Embedder(Protocol):
    """Texts to rows of unit length, off the loop. `name` changes when the model does."""

    name: str

    async def embed(self, texts: Sequence[str]) -> Any:
        """One row of numbers for each text. Raises Unavailable or Busy when it cannot now."""
        ...


def new_exchange(said: Sequence[tuple[str, str]], when_ms: int, conversation: str) -> Exchange:
    """What is kept of an exchange, cut to RECALL_CHARS_MAX."""
    lines = "\n".join(f"{role}: {text}" for role, text in said if text)
    return Exchange(lines[:RECALL_CHARS_MAX], when_ms, conversation)


class Recall:
    """Of one gateway. `embedder` is asked each time, because it may come later or go."""

    def __init__(
        self, people: People, clock: Clock, embedder: Callable[[], Embedder | None]
    ) -> None:
        self._people, self._clock, self._embedder = people, clock, embedder

    async def find(
        self, person: PersonNotes, agent: str, query: str, limit: int
    ) -> tuple[list[Recalled], list[Write]]:
        """The nearest exchanges, the nearest first, and writes that keep what was found out.

        Raises what the store raises; an embedder that fails leaves the search by words.
        """
        exchanges = await self._people.exchanges(person, agent)
        oldest_ms = self._clock.now_ms() - RECALL_KEPT_S * 1000
        writes: list[Write] = [
            self._people.drop_exchange(person, agent, slot)
            for slot, exchange in exchanges.items()
            if exchange.when_ms < oldest_ms
        ]
        young = {n: found for n, found in exchanges.items() if found.when_ms >= oldest_ms}
        if not young or not query.strip() or limit < 1:
            return [], writes
        nearness, made = await self._by_meaning(query, young)
        writes += [
            put
            for slot in made
            for put in self._people.put_exchange(person, agent, slot, young[slot])
        ]
        texts = {slot: found.text for slot, found in young.items() if slot not in nearness}
        weight = _WORDS_WEIGHT if nearness else 1.0
        by_words = await asyncio.to_thread(score_by_words, query, texts)
        scores = nearness | {slot: weight * score for slot, score in by_words.items()}
        nearest = sorted(scores, key=lambda slot: (-scores[slot], -young[slot].when_ms))
        found = [
            Recalled(young[slot].text, young[slot].when_ms, round(scores[slot], 4))
            for slot in nearest[: min(limit, RECALLED_MAX)]
            if scores[slot] > 0
        ]
        return found, writes

    async def _by_meaning(
        self, query: str, exchanges: Mapping[int, Exchange]
    ) -> tuple[dict[int, float], list[int]]:
        """Cosines of those that have a vector, and the slots that got one just now."""
        embedder = self._embedder()
        if embedder is None:
            return {}, []
        bare = [slot for slot, found in exchanges.items() if found.embedder != embedder.name]
        bare.sort(key=lambda slot: -exchanges[slot].when_ms)
        bare = bare[:RECALL_EMBEDDED_AT_ONCE]
        try:
            rows = await embedder.embed([query, *(exchanges[slot].text for slot in bare)])
        except AngariumError as error:
            log.warning("recall.by_words", code=error.code)
            return {}, []
        for slot, row in zip(bare, rows[1:], strict=True):
            exchanges[slot].vector = pack_vector(row)
            exchanges[slot].embedder = embedder.name
        asked = [float(number) for number in rows[0]]
        near: dict[int, float] = {}
        for slot, found in exchanges.items():
            if found.embedder == embedder.name:
                near[slot] = cosine(asked, unpack_vector(found.vector))
                if len(near) % _SCANNED_IN_A_ROW == 0:
                    await asyncio.sleep(0)
        return near, bare


def pack_vector(row: Sequence[float]) -> bytes:
    """16-bit floats: half the room, and far more exact than the meaning is."""
    return struct.pack(f"<{len(row)}e", *(float(number) for number in row))


def unpack_vector(packed: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(packed) // 2}e", packed)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two rows of unit length; 0 where they are of different models."""
    if len(one) != len(other):
        return 0.0
    return float(sum(map(operator.mul, one, other)))


def score_by_words(query: str, texts: Mapping[int, str]) -> dict[int, float]:
    """0 to 1: the share of the query's words that a text has, rare words weighing more."""
    wanted = set(_words(query))
    bags = {slot: set(_words(text)) for slot, text in texts.items()}
    seen = Counter(word for bag in bags.values() for word in bag & wanted)
    weight = {
        word: math.log(1 + len(bags) / seen[word]) if seen[word] else 0 for word in wanted
    }
    unknown = math.log(1 + len(bags))
    total = sum(weight[word] or unknown for word in wanted)
    if not total:
        return dict.fromkeys(texts, 0.0)
    return {
        slot: sum(weight[word] for word in bag & wanted) / total for slot, bag in bags.items()
    }


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
