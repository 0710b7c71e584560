"""The plainest kind of agent: an async function or an async generator."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgen
from typing import Any

from angarium.agents.contract import AgentEvent, Done, Text, Turn

TurnFunction = Callable[[Turn], Awaitable[Any] | AsyncIterator[Any]]


async def run_function(function: TurnFunction, turn: Turn) -> AsyncIterator[AgentEvent]:
    """Call `function` and give what it returns or yields as events, `Done` at the end.

    Raises TypeError for anything that is neither text nor an event.
    """
    answer: Any = function(turn)
    if not isasyncgen(answer):
        answer = await answer
    if isasyncgen(answer):
        async with aclosing(answer):
            async for piece in answer:
                yield as_event(piece)
    elif answer is not None:
        yield as_event(answer)
    yield Done()


def as_event(piece: Any) -> AgentEvent:
    """Text becomes a `Text`; events stay. Raises TypeError."""
    if isinstance(piece, str):
        return Text(piece)
    if isinstance(piece, AgentEvent):
        return piece
    raise TypeError(f"an agent gives text or events, not {type(piece).__name__}")
