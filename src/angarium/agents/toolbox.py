"""Tools of one's own: async functions that a model may call.

@tool(effect="keyed")
async def refund(ctx, order: str, cents: int) -> str:
    return await pay.refund(order, cents, key=ctx.idempotency_key)
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import getdoc, iscoroutinefunction, signature
from typing import Any

from angarium.agents.contract import Effect, Person
from angarium.errors import Misconfigured

EFFECTS = ("read", "keyed", "once")
ToolFunction = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool's function is told about the call. `idempotency_key` is the same whenever the
    same call of the same turn runs again. `memory` is the agent's, in this conversation."""

    idempotency_key: str
    agent: str
    conversation: str
    person: Person
    memory: dict[str, Any]
    status: Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A function that models may call. `effect` says what may be done after an interruption:
    run again (`read`), run again with the same key (`keyed`), never again (`once`)."""

    name: str
    description: str
    function: ToolFunction
    effect: Effect
    requires_approval: bool = False

    async def __call__(self, *given: Any, **named: Any) -> Any:
        """Call the function itself, in a test for instance."""
        return await self.function(*given, **named)


def tool(
    *, effect: Effect = "once", name: str = "", requires_approval: bool = False
) -> Callable[[ToolFunction], Tool]:
    """Make a tool of an `async def` whose first parameter is the `ToolContext`; the types of
    the others and its docstring are what the model sees.

    The person is asked before each call with `requires_approval`. Raises Misconfigured for a
    plain `def`, for a function without parameters, and for an unknown effect.
    """
    if effect not in EFFECTS:
        raise Misconfigured(f"effect is one of {', '.join(EFFECTS)}, not {effect!r}")

    def make(function: ToolFunction) -> Tool:
        known_as = name or getattr(function, "__name__", "?")
        if not iscoroutinefunction(function):
            raise Misconfigured(f"tool {known_as!r} must be `async def`")
        if not signature(function).parameters:
            raise Misconfigured(f"tool {known_as!r} needs a first parameter: `ctx`")
        description = getdoc(function) or ""
        return Tool(known_as, description, function, effect, requires_approval)

    return make
