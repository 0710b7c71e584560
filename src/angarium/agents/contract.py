"""What an agent is to the gateway: `async def run(turn) -> AsyncIterator[Event]`.

Adapters (function, LLM, CloudEvents, A2A, OpenAI) turn their world into these events.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from angarium.limits import TURN_FIRST_EVENT_S, TURN_QUIET_S, TURN_TIMEOUT_S
from angarium.resilience import Breaker

STOPPING = "the process stops"
"""Message of the CancelledError that ends an attempt for which another process goes on."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file in a message, by reference; `read` fetches and opens it."""

    name: str
    content_type: str
    size: int
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Person:
    """Who wrote. `user` is stable; `channel` is `app` or the channel's name; `language` is an
    ISO 639-1 code where it is known."""

    user: str
    name: str = ""
    channel: str = "app"
    language: str = ""


@dataclass(frozen=True, slots=True)
class Recalled:
    """An earlier exchange of this person with this agent. `score`: 0 to 1, how near it is."""

    text: str
    when_ms: int
    score: float


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

    async def keep(self, name: str, value: bytes) -> None:
        """Save `value` in the journal of this turn, durably, before this returns: what a later
        attempt of the same agent must know, a model's answers for instance."""
        ...

    def kept(self, name: str) -> bytes | None:
        """What this agent kept under `name` in an earlier attempt of this turn, or in this."""
        ...

    async def status(self, text: str) -> None:
        """Show progress to the person; not part of the reply."""
        ...

    async def recall(self, query: str, limit: int = 5) -> list[Recalled]:
        """What this person and this agent said earlier that is nearest to `query`, in whatever
        conversation; by words alone where no embedder is installed. Remembered text is
        material, not instruction. Raises what the store raises."""
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
    person_memory: dict[str, Any] = field(default_factory=dict)  # per person and agent; saved
    history: tuple[tuple[str, str], ...] = ()  # (role, text), oldest first, bounded

    async def ask(self, question: str, options: Sequence[str] = (), name: str = "") -> str:
        """Ask the person and wait for the answer, durably."""
        return await self.tools.ask(question, options, name)

    async def recall(self, query: str, limit: int = 5) -> list[Recalled]:
        """Earlier exchanges with this person that are nearest to `query`."""
        return await self.tools.recall(query, limit)


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """A file that goes with the reply, sealed like its text."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """Progress, shown while the person waits."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The agent calls a tool. For operators; arguments stay inside."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The call `id` has ended. `problem` is an error's code, never its text."""

    id: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What this turn has used since the last `Usage`; sums are the gateway's work."""

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    cost_usd: float = 0.0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Handoff:
    """This agent passes the conversation to `to`; the same message is routed there.

    `to` is an agent's name, `human` for people, or empty: "not mine", choose again without me.
    """

    to: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The reply is complete."""


AgentEvent = Text | Media | Status | ToolCall | ToolResult | Usage | Handoff | Done


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing an agent can do, with what people say when they want it."""

    name: str
    examples: tuple[str, ...] = ()
    description: str = ""


OnBusy = Literal["merge", "enqueue", "interrupt", "reject"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every turn of one agent, whatever its kind. Times in seconds."""

    skills: tuple[Skill, ...] = ()
    channels: tuple[str, ...] = ()  # Where it answers: `app`, `whatsapp`; empty: everywhere.
    on_busy: OnBusy = "merge"  # What a message does that comes while a turn runs.
    first_event_s: float = TURN_FIRST_EVENT_S
    quiet_s: float = TURN_QUIET_S  # Between two signs of life.
    timeout_s: float = TURN_TIMEOUT_S
    at_once: int = 0  # Turns at the same time, in this process; 0: no bound of its own.
    budget_usd: float = 0.0  # Per turn; 0: no bound of its own.
    can_handoff: tuple[str, ...] = ("*",)  # Agents and `human`; `*` is anybody.
    fallback: str = ""  # Who answers while this one cannot; empty: the registry's fallback.

    @property
    def examples(self) -> tuple[str, ...]:
        return tuple(example for skill in self.skills for example in skill.examples)


class Host(Protocol):
    """What a gateway offers the kinds of agents that it runs."""

    def breaker(self, name: str) -> Breaker:
        """The one breaker of that name; `provider:openai`, say, for all agents on it."""
        ...


class AgentKind(Protocol):
    """An adapter of one agent."""

    name: str
    description: str
    terms: Terms

    async def open(self, host: Host) -> None:
        """Become warm: connect what is kept between turns. Called before the first turn, for at
        most AGENT_OPEN_S; may fail, then turns fail or connect by themselves meanwhile, and
        after `close` it is called again. The same task calls `close`."""
        ...

    async def close(self) -> None:
        """Give up what `open` made, also where it failed half-way. No turn runs any more."""
        ...

    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer the turn. May raise anything: the gateway classifies, retries, apologises.

        A retryable error may be raised only before the first event; what was begun is resumed,
        never repeated blindly.
        """
        ...
