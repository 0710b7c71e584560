"""How a developer declares an agent: a name, a sentence, and an async function."""

from collections.abc import AsyncIterator, Sequence
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeVar, Unpack

from angarium.agents.contract import AgentEvent, Handoff, Host, Skill, Turn
from angarium.agents.kinds.function import TurnFunction, run_function
from angarium.agents.kinds.llm import Adopted
from angarium.agents.terms import TermOptions, check_name, make_terms
from angarium.errors import Misconfigured

__all__ = ["Agent", "TermOptions", "ask", "check_name", "handoff", "make_terms", "skill"]

_Function = TypeVar("_Function", bound=TurnFunction)


class Agent:
    """An agent made of a function.

        greeter = Agent("greeter", "Greets people by name")

        @greeter.on_turn
        async def greet(turn):
            return f"Hello! You wrote: {turn.text}"

    `terms` are those of `TermOptions`: `examples` are things people say to it, `skills` group
    them. Raises Misconfigured for a name that cannot be mentioned as `@name`.
    """

    def __init__(self, name: str, description: str, **terms: Unpack[TermOptions]) -> None:
        self.name = check_name(name)
        self.description = description
        self.terms = make_terms(terms)
        self._function: TurnFunction | None = None

    def on_turn(self, function: _Function) -> _Function:
        """Answer turns with `function`: an `async def` that returns text or None, or
        yields text and events.

        After an answered question it is run again from its start: what it does before a
        question goes through `turn.tools.call` or must be safe to repeat.

        Raises Misconfigured for a plain `def` and for a second function.
        """
        if not (iscoroutinefunction(function) or isasyncgenfunction(function)):
            raise Misconfigured(f"agent {self.name!r}: its function must be `async def`")
        if self._function is not None:
            raise Misconfigured(f"agent {self.name!r} has two functions; keep one")
        self._function = function
        return function

    @staticmethod
    def from_pydantic_ai(agent: Any, **given: Any) -> Adopted:
        """An agent made with Pydantic AI, as an agent here: `name`, `description`, and what
        else `Adopted` and `TermOptions` take. Raises Misconfigured.

            crew = Agent.from_pydantic_ai(mine, name="crew", description="Plans trips")
        """
        return Adopted(agent, **given)

    @property
    def ready(self) -> bool:
        """Whether it has a function."""
        return self._function is not None

    async def open(self, host: Host) -> None:
        """A function is always warm."""

    async def close(self) -> None:
        """Nothing is kept."""

    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer the turn. Raises Misconfigured without a function."""
        if self._function is None:
            raise Misconfigured(f"agent {self.name!r} has no function; use @agent.on_turn")
        return run_function(self._function, turn)


def skill(name: str, *examples: str, description: str = "") -> Skill:
    """A skill, with things people say when they want it."""
    return Skill(name, examples, description)


async def ask(turn: Turn, question: str, options: Sequence[str] = (), name: str = "") -> str:
    """Ask the person and wait for the answer, durably; the same as `turn.ask`."""
    return await turn.ask(question, options, name)


def handoff(to: str, reason: str = "") -> Handoff:
    """Return or yield it to pass the conversation, and this message, to agent `to`."""
    return Handoff(to, reason)
