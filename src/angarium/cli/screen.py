"""How a line of a conversation looks on a terminal."""

from rich.console import Console
from rich.text import Text

WIDTH_MIN = 20


def show_line(
    console: Console, name: str, text: str | Text, style: str, *, name_width: int = 0
) -> None:
    """A name in `style`, and beside it the text, wrapped at words. Control characters are
    dropped. `name_width` lines several names up."""
    label = printable(name).ljust(name_width) + "  "
    shown = text if isinstance(text, Text) else Text(printable(text))
    room = max(WIDTH_MIN, console.width - len(label))
    for index, line in enumerate(shown.wrap(console, room)):
        line.rstrip()
        before = label if index == 0 else " " * len(label)
        console.print(Text.assemble((before, style), line), soft_wrap=True)


def printable(text: str) -> str:
    """Without control characters: what others write must not move this terminal's cursor."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
