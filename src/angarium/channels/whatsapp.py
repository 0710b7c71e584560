"""What every WhatsApp provider shares: how text is shown, cut, and which words opt out."""

import re
from collections.abc import Sequence
from typing import Literal

_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]\n]+)\]\((https?://[^)\s]+)\)")
_SENTENCE_END = re.compile(r"[.!?…。！？]['\")\]]*\s")  # noqa: RUF001 - these do end sentences

# Not "cancel", "end" or "quit": to a question of an agent those are answers.
_STOP = frozenset({"stop", "stopall", "unsubscribe", "optout"})
_START = frozenset({"start", "unstop"})

Wish = Literal["stop", "start"]


def opt_wish(text: str) -> Wish | None:
    """Whether the whole message is an opt-out or opt-in word, never one inside a sentence."""
    word = text.strip().rstrip(".!").casefold()
    if word in _STOP:
        return "stop"
    return "start" if word in _START else None


def render(text: str) -> str:
    """Markdown as WhatsApp shows it: bold has one star, links are spelt out, code stays."""
    pieces = text.split("```")
    for index in range(0, len(pieces), 2):
        piece = _HEADING.sub(r"**\1**", pieces[index])
        pieces[index] = _LINK.sub(r"\1 (\2)", _BOLD.sub(r"*\1*", piece))
    return "```".join(pieces)


def with_options(text: str, options: Sequence[str]) -> str:
    """A question with its options as a numbered list, to be answered by number or words."""
    lines = [f"{number}. {option}" for number, option in enumerate(options, 1)]
    return "\n".join([text, *([""] if lines else []), *lines])


def split_text(text: str, chars_max: int) -> list[str]:
    """Cut into pieces of at most `chars_max` code points, at the end of a paragraph, else of a
    line, a sentence, a word, else anywhere. Only white space at the cuts is dropped; text of
    white space alone gives no piece."""
    pieces = []
    rest = text.strip()
    while len(rest) > chars_max:
        cut = _cut(rest, chars_max)
        pieces.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*pieces, rest] if rest else pieces


def _cut(text: str, chars_max: int) -> int:
    """Where to cut: the last good place in the later half, so that pieces are not tiny."""
    window, least = text[: chars_max + 1], chars_max // 2
    for mark in ("\n\n", "\n"):
        found = window.rfind(mark)
        if found >= least:
            return found
    sentences = [end.end() - 1 for end in _SENTENCE_END.finditer(window)]
    if sentences and sentences[-1] >= least:
        return sentences[-1]
    found = window.rfind(" ")
    return found if found >= 1 else chars_max
