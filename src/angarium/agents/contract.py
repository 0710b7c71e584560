"""What an agent is to the gateway: `async def run(turn) -> AsyncIterator[Event]`.

Adapters (function, LLM, CloudEvents, A2A, OpenAI) turn their world into these events.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file in a message, by reference; `read` fetches and opens it."""

    name: str
    content_type: str
    size: int
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Person:
    """Who wrote. `user` is stable; `channel` is `app` or the channel's name."""

    user: str
    name: str = ""
    channel: str = "app"


Effect = Literal["read", "keyed", "once"]


class TurnTools(Protocol):
    """What a running turn may ask of the gateway; durable across crashes."""

    async def ask(self, question: str, options: Sequence[str] = (), name: str = "") -> str:
        """Put a question to the person; the turn waits, through restarts, for the answer."""
        ...

    async def call(
        self, name: str, effect: Effect, do: Callable[[str], Awaitable[Any]], *arguments: Any
    ) -> Any:
        """Run `do(idempotency_key)` through the tool ledger: done calls return their stored
        result; an interrupted `keyed` call runs again with the same key; an interrupted `once`
        call never runs again (raises OutcomeUnknown)."""
        ...

    async def status(self, text: str) -> None:
        """Show progress to the person; not part of the reply."""
        ...


@dataclass(slots=True)
class Turn:
    """One message put to an agent. Given to the agent's function; live for one attempt."""

    conversation: str
    sequence: int
    text: str
    person: Person
    agent: str
    attempt: int
    tools: TurnTools
    attachments: tuple[Attachment, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)  # per conversation and agent; saved
    history: tuple[tuple[str, str], ...] = ()  # (role, text), oldest first, bounded

    async def ask(self, question: str, options: Sequence[str] = (), name: str = "") -> str:
        """Ask the person and wait for the answer, durably."""
        return await self.tools.ask(question, options, name)


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """Progress, shown while the person waits."""

    text: str


@dataclass(frozen=True, slots=True)
class Handoff:
    """This agent passes the conversation to `to`; the same message is routed there."""

    to: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The reply is complete."""


AgentEvent = Text | Status | Handoff | Done


class AgentKind(Protocol):
    """An adapter of one agent."""

    name: str
    description: str

    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer the turn. May raise anything: the gateway classifies, retries, apologises."""
        ...
