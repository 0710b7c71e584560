"""Models that follow a script, for tests of LLM agents without any provider.

LLM("shop", "sells", model=scripted(("pay", {"cents": 5}), "It is paid."), tools=[pay])
"""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from pydantic_ai import ModelMessage, ModelResponse
from pydantic_ai.messages import ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

Call = tuple[str, dict[str, Any]]
Step = str | Call | Sequence[str | Call] | Callable[[list[ModelMessage], AgentInfo], Any]


def scripted(
    *steps: Step, name: str = "scripted", seen: list[AgentInfo] | None = None
) -> FunctionModel:
    """A model that answers a message with the steps, one for each request: text (streamed in
    words), tool calls, several of both, or what a function of (messages, info) makes of them.
    After the last step it repeats it. What it is asked goes to `seen`."""

    async def stream(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if seen is not None:
            seen.append(info)
        number = len(_of_this_turn(messages))
        step: Any = steps[min(number, len(steps) - 1)]
        if callable(step):
            step = step(messages, info)
        pieces = [step] if isinstance(step, str | tuple) else list(step)
        for index, piece in enumerate(pieces):  # Ids are new each time, as those of providers.
            if isinstance(piece, str):
                for place, word in enumerate(piece.split(" ")):
                    yield f" {word}" if place else word
            else:
                tool, arguments = piece
                call = f"call-{number}-{secrets.token_hex(4)}"
                made = DeltaToolCall(tool, json.dumps(arguments), tool_call_id=call)
                yield {index: made}

    return FunctionModel(stream_function=stream, model_name=name)


def results(messages: list[ModelMessage]) -> dict[str, str]:
    """What the model has read of tools in this turn, by tool; the newest of each."""
    return {
        part.tool_name: str(part.content)
        for message in messages
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }


def _of_this_turn(messages: list[ModelMessage]) -> list[ModelResponse]:
    last = max(
        index
        for index, message in enumerate(messages)
        if any(isinstance(part, UserPromptPart) for part in message.parts)
    )
    return [one for one in messages[last:] if isinstance(one, ModelResponse)]
