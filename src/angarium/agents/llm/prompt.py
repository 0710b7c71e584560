"""What a model is told before its own turn: who it is, what was said, what is asked."""

from collections.abc import Iterator

from pydantic_ai import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.messages import UserPromptPart

from angarium.agents.contract import Attachment, Turn
from angarium.agents.marking import Marks, clean
from angarium.errors import AngariumError
from angarium.limits import ATTACHED_TEXT_BYTES_MAX

COMMAND = "/model"
TEXTS = ("text/", "application/json", "application/xml", "application/yaml")


def earlier_messages(turn: Turn) -> list[ModelMessage]:
    """The conversation before this turn, without what was said about models themselves."""
    return list(_earlier(turn))


def _earlier(turn: Turn) -> Iterator[ModelMessage]:
    skips = False
    for role, text in turn.history:
        if role == "user":
            skips = text.strip().lower().startswith(COMMAND)
        if skips:
            continue
        if role == "user":
            yield ModelRequest(parts=[UserPromptPart(text)])
        else:
            yield ModelResponse(parts=[TextPart(text)])


async def prompt(turn: Turn, marks: Marks) -> ModelRequest:
    """The message to answer, with its text files; other files only by name."""
    said = [turn.text] if turn.text else []
    room = ATTACHED_TEXT_BYTES_MAX
    for attached in turn.attachments:
        text = await _read(attached, room)
        room -= len(text.encode())
        inside = text or "(not shown)"
        kind = f"{clean(attached.content_type)[:100]}, {attached.size} bytes"
        said.append(f"{kind}:\n{marks.wrap(inside, f'file:{attached.name}')}")
    return ModelRequest(parts=[UserPromptPart("\n\n".join(said))])


def instructions(
    own: str, turn: Turn, marks: Marks, handoffs: tuple[str, ...], *, has_tools: bool
) -> str:
    """The agent's own prompt first, then what holds for all."""
    lines = [own.strip()]
    if has_tools or turn.attachments:
        lines.append(marks.explain())
    if handoffs:
        lines.append(f"What is not yours to answer you hand off to: {', '.join(handoffs)}.")
    if turn.person.language:
        lines.append(f"Answer in the language {turn.person.language!r} (ISO 639-1).")
    return "\n\n".join(line for line in lines if line)


async def _read(attached: Attachment, room: int) -> str:
    """Its text, where it is one and fits."""
    if not attached.content_type.startswith(TEXTS) or not 0 < attached.size <= room:
        return ""
    try:
        content = await attached.read()
    except AngariumError:
        return ""
    return content[:room].decode(errors="replace")
