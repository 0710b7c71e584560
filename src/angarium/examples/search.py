"""A small search over sections of Markdown: BM25, nothing to train, nothing to install."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

_WORD = re.compile(r"[a-z0-9]+")
_ENTRY = re.compile(r"^\| ([A-Za-z][^|]*) \| ([^|]+) \|$")
_HEADING = re.compile(r"^(#{1,4}) +(.+)$")
_STOP = frozenset(
    re.findall(
        "[a-z]+",
        "a an and are as at be but by can could did do does for from get had has have how i if"
        " in is it its me my no not of on or our please so tell than that the their them then"
        " there these they this to up us was we were what when where which who why will with"
        " would you your about any work works",
    )
)
_SATURATION = 1.4  # How soon repeating a word stops counting.
_LENGTH_SHARE = 0.6  # How much long sections are held back.
_TITLE_WEIGHT = 4  # A word of the title counts like so many in the text.


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it. `page` is where it is from."""

    page: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """`share` of the question's weight (0..1) that the section's words carry."""

    section: Section
    score: float
    share: float


def split_sections(page: str, markdown: str) -> list[Section]:
    """Cut a page at its headings (code fences may hold lines that look like headings); each row
    of a table with two columns is a section of its own, as in a glossary."""
    sections: list[Section] = []
    title, lines, fenced = page, list[str](), False

    def close() -> None:
        text = "\n".join(lines).strip()
        if text:
            sections.append(Section(page, title, text))

    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if entry := _ENTRY.match(line):
            sections.append(Section(page, entry[1], entry[2]))
        elif heading is None:
            lines.append(line)
        else:
            close()
            title, lines = heading[2], []
    close()
    return sections


def words(text: str) -> list[str]:
    """Lower-case words without the most frequent ones, plural and tense endings cut off."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP]


def _stem(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word.removesuffix(ending) + instead
            return stem.removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


class Search:
    """Sections ranked by how well they fit a question (Okapi BM25, title words weighted)."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self._sections = list(sections)
        self._counts = [
            Counter(words(section.text) + words(section.title) * _TITLE_WEIGHT)
            for section in self._sections
        ]
        lengths = [counts.total() for counts in self._counts]
        self._mean_length = sum(lengths) / len(lengths) if lengths else 1.0
        self._found_in = Counter(word for counts in self._counts for word in counts)

    def best(self, question: str, matches_max: int = 3) -> list[Match]:
        """The best sections, best first; nothing when no word of the question is known."""
        asked = set(words(question))
        whole = self._weight(asked)
        ranked = sorted(
            (
                self._match(section, counts, asked, whole)
                for section, counts in zip(self._sections, self._counts, strict=True)
            ),
            key=lambda match: (-match.score, match.section.page, match.section.title),
        )
        return [match for match in ranked[:matches_max] if match.score > 0]

    def after(self, section: Section) -> Iterator[Section]:
        """The sections that follow on the same page, as a reader would go on."""
        start = self._sections.index(section) + 1
        return takewhile(lambda other: other.page == section.page, self._sections[start:])

    def _weight(self, some: Iterable[str]) -> float:
        return sum(self._rarity(word) for word in some)

    def _rarity(self, word: str) -> float:
        found = self._found_in[word]
        return math.log(1 + (len(self._sections) - found + 0.5) / (found + 0.5))

    def _match(
        self, section: Section, counts: Counter[str], asked: set[str], whole: float
    ) -> Match:
        shared: Sequence[str] = [word for word in asked if word in counts]
        relative = counts.total() / self._mean_length
        damping = _SATURATION * (1 - _LENGTH_SHARE + _LENGTH_SHARE * relative)
        score = sum(
            self._rarity(word) * counts[word] * (_SATURATION + 1) / (counts[word] + damping)
            for word in shared
        )
        title = set(words(section.title))
        titled = title & asked
        share = self._weight(shared) / whole if whole else 0.0
        title_share = self._weight(titled) / whole if whole else 0.0
        if title:
            title_share *= len(titled) / len(title)
        # A section that covers the whole question, and says so and nothing else, goes before
        # one that repeats a single word of it.
        return Match(section, score * share * (1 + title_share), share)
