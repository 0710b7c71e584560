"""The guide: answers questions about Angarium from its documentation, and names the page."""

import re
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path

from angarium.agents.agent import Agent
from angarium.agents.contract import Turn
from angarium.examples.search import Match, Search, Section, split_sections

SHARE_MIN = 0.5  # Below this share of the question's weight, the guide says it does not know.
EXCERPT_CHARS_MAX = 700
EXCERPT_CHARS_MIN = 250
ENTRY_CHARS_MAX = 120  # A glossary entry is a whole answer, however short.
PURPOSE = "**Why this page exists"  # Each page opens with it; it says nothing about the thing.
SKIPPED = ("adr/", "style.md")  # Decisions and house rules answer no user's question.

GREETING = re.compile(r"\s*(hi|hello|hey|hallo|good (morning|day|evening))\b[\s!.,]*", re.I)
WELCOME = (
    "Hello! I know Angarium's documentation. Ask me how delivery, encryption, agents or"
    " WhatsApp work. /agents shows who else is here."
)
UNKNOWN = "I do not find that in the documentation, so I will not guess."

guide = Agent(
    "guide",
    "Answers questions about Angarium from its documentation",
    examples=(
        "how does delivery work",
        "what is encrypted",
        "how do I write an agent",
        "how do I connect whatsapp",
    ),
)


@guide.on_turn
async def answer(turn: Turn) -> AsyncIterator[str]:
    rest = GREETING.sub("", turn.text, count=1)
    if not rest.strip():
        yield WELCOME
        return
    matches = documentation().best(rest)
    if not matches or matches[0].share < SHARE_MIN:
        yield UNKNOWN
        if matches:
            yield f" The nearest is “{matches[0].section.title}” ({matches[0].section.page})."
        return
    for piece in compose(documentation(), matches):
        yield piece


def compose(search: Search, matches: list[Match]) -> Iterator[str]:
    """The best section's beginning, where it is from, and what else fits.

    A section that is only an opening is followed by the next ones of its page.
    """
    best = matches[0].section
    said = excerpt(best.text)
    if "\n" in best.text.strip() or len(said) > ENTRY_CHARS_MAX or not said:
        for section in search.after(best):
            if len(said) >= EXCERPT_CHARS_MIN:
                break
            more = excerpt(section.text)
            said = "\n\n".join(part for part in (said, f"{section.title}. {more}") if part)
    yield said
    yield f"\n\nFrom “{best.title}”, {best.page}."
    others = [m.section for m in matches[1:] if m.score > 0.7 * matches[0].score]
    if others:
        listed = "; ".join(f"“{section.title}”, {section.page}" for section in others)
        yield f" See also: {listed}."


def excerpt(markdown: str) -> str:
    """Whole paragraphs of plain text, up to a bound; a cut one ends with dots."""
    said = ""
    for paragraph in filter(None, _paragraphs(markdown)):
        if said and len(said) + len(paragraph) > EXCERPT_CHARS_MAX:
            break
        said = f"{said}\n\n{paragraph}" if said else paragraph
    return said if len(said) <= EXCERPT_CHARS_MAX else said[:EXCERPT_CHARS_MAX] + " ..."


def _paragraphs(markdown: str) -> Iterator[str]:
    for n, piece in enumerate(re.split(r"^```\w*\n|^```$", markdown, flags=re.MULTILINE)):
        if n % 2:
            yield piece.strip("\n")  # Code keeps its lines.
        else:
            yield from map(_plain, re.split(r"\n\s*\n", piece))


def _plain(block: str) -> str:
    if block.strip().startswith(PURPOSE):
        return ""
    block = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", block)
    block = re.sub(r"\*\*|`", "", block)
    lines = [line.strip() for line in block.splitlines()]
    keeps_lines = any(line.startswith(("|", "-", "1.")) for line in lines)
    return ("\n" if keeps_lines else " ").join(line for line in lines if line).strip()


@lru_cache(maxsize=1)
def documentation() -> Search:
    """The index of the documentation; read once."""
    return Search(section for page in pages() for section in _sections_of(page))


def pages() -> list[Path]:
    """README and docs: packaged beside this file, or in the source tree."""
    here = Path(__file__).resolve().parent
    for root in (here / "pages", *here.parents[2:4]):
        if (root / "docs").is_dir():
            return [*root.glob("README.md"), *sorted((root / "docs").rglob("*.md"))]
    return []


def _sections_of(page: Path) -> list[Section]:
    parts = page.parts
    name = "/".join(parts[parts.index("docs") :]) if "docs" in parts else page.name
    if any(name.removeprefix("docs/").startswith(skipped) for skipped in SKIPPED):
        return []
    return split_sections(name, page.read_text(encoding="utf-8"))
