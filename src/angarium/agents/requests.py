"""Requests to agents that may go on from an earlier one: whoever calls over HTTP.

An agent that asks ends its answer with the question; the next request that follows it is the
answer, and the agent goes on where it was, its finished tool calls and all.
"""

import hashlib
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from angarium.agents.contract import Attachment, Media, Person, Status, Text, Usage
from angarium.agents.direct import Asked, DirectRunner
from angarium.agents.ledger import Journal, Question, pack_journal, unpack_journal
from angarium.agents.registry import Registry
from angarium.agents.routing.rules import may_answer, read_answer
from angarium.agents.shelf import Kept, Shelf
from angarium.clock import Clock
from angarium.errors import NotFound
from angarium.ids import UserId

ANY_AGENT = "angarium"  # The router decides.
API_CHANNEL = "app"  # Whoever calls over HTTP is a client of the company's own.
History = tuple[tuple[str, str], ...]
Choose = Callable[[str, str], Awaitable[str]]
"""choose(text, sticky): which agent answers, where `sticky` answered before."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for. `follows`: the name of the kept request that it goes on from,
    `""` for none. `key`: its idempotency key, if it has one."""

    model: str
    text: str
    person: Person
    history: History = ()
    files: tuple[Attachment, ...] = ()
    follows: str = ""
    key: str = ""


@dataclass(slots=True)
class Answer:
    """One answer while it is made; complete when its events have ended."""

    wanted: Wanted
    agent: str
    text: str  # What the agent is asked: an earlier text, where the request answers a question.
    history: History  # As the agent sees it; the beginning of `seen`.
    seen: History  # As the person sees it, up to this request.
    conversation: str
    key: str
    journal: Journal
    pieces: list[str] = field(default_factory=list)
    files: list[Media] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    question: Question | None = None

    @property
    def said(self) -> str:
        return "".join(self.pieces)

    @property
    def after(self) -> History:
        """All that was said, this request and its answer included."""
        return (*self.seen, ("user", self.wanted.text), ("agent", self.said))

    def add_usage(self, usage: Usage) -> None:
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens


class Requests:
    """Finds the agent, and what the request goes on from; runs it; keeps what was asked."""

    def __init__(
        self,
        registry: Registry,
        runner: DirectRunner,
        shelf: Shelf,
        clock: Clock,
        choose: Choose,
    ) -> None:
        self._registry, self._runner, self._shelf = registry, runner, shelf
        self._clock, self._choose = clock, choose

    def offered(self) -> list[str]:
        """The agents that may be asked over HTTP."""
        return [agent.name for agent in self._registry if may_answer(agent, API_CHANNEL)]

    async def begin(self, wanted: Wanted) -> Answer:
        """Raises NotFound for an agent, or for what the request follows."""
        user = UserId(wanted.person.user)
        kept = None
        if wanted.follows:
            kept = await self._shelf.find(user, wanted.follows)
            if kept is None:
                raise NotFound("the earlier response is not kept any more; send it all again")
        elif wanted.history and wanted.history[-1][0] == "agent":
            kept = await self._shelf.find(user, question_name(wanted.model, wanted.history))
        if kept is not None and kept.journal:
            return self._go_on(wanted, kept)
        history = (*(kept.history if kept else ()), *wanted.history)
        agent = wanted.model
        if agent == ANY_AGENT:
            agent = await self._choose(wanted.text, kept.agent if kept else "")
        if agent not in self.offered():
            raise NotFound(f"there is no agent {agent[:40]!r}; see GET /v1/models")
        key = wanted.key or uuid.uuid4().hex
        conversation = kept.conversation if kept else ""
        return Answer(
            wanted, agent, wanted.text, history, history, conversation, key, Journal()
        )

    def _go_on(self, wanted: Wanted, kept: Kept) -> Answer:
        """The request is the answer to a question."""
        journal = unpack_journal(kept.journal)
        question = journal.open_question()
        if question is not None:
            question.answer = read_answer(wanted.text, question.options)
        seen = (*kept.history, *wanted.history) if wanted.follows else wanted.history
        return Answer(
            wanted=wanted,
            agent=kept.agent,
            text=kept.text,
            history=tuple(kept.history[: kept.before]),
            seen=seen,
            conversation=kept.conversation,
            key=kept.key,
            journal=journal,
        )

    async def events(self, answer: Answer) -> AsyncGenerator[Text | Status, None]:
        """Run the agent: pieces of text and progress; the rest gathers in `answer`.

        Raises what DirectRunner.run raises.
        """
        run = self._runner.run(
            answer.agent,
            answer.text,
            answer.history,
            answer.wanted.person,
            answer.wanted.files,
            conversation=answer.conversation,
            key=answer.key,
            journal=answer.journal,
        )
        async with aclosing(run) as events:
            async for event in events:
                match event:
                    case Text(text):
                        answer.pieces.append(text)
                        yield event
                    case Asked(question, agent):
                        answer.question, answer.agent = question, agent
                        asked = Text(_spoken(question, bool(answer.said.strip())))
                        answer.pieces.append(asked.text)
                        yield asked
                    case Status():
                        yield event
                    case Usage():
                        answer.add_usage(event)
                    case Media():
                        answer.files.append(event)
                    case _:
                        pass

    async def keep_question(self, answer: Answer) -> None:
        """Where a complete answer ends with a question: keep it for the request that sends all
        of this again, and the person's answer."""
        if answer.question is not None:
            await self.keep(answer, question_name(answer.wanted.model, answer.after))

    async def forget(self, user: UserId, name: str) -> None:
        """Raises NotFound."""
        if not await self._shelf.drop(user, name):
            raise NotFound("there is no such response")

    async def keep(self, answer: Answer, name: str) -> None:
        """Keep a complete answer, so that a request may follow it. Raises TooLarge, and what
        the store raises."""
        asks = answer.question is not None
        kept = Kept(
            agent=answer.agent,
            text=answer.text if asks else answer.wanted.text,
            history=[*answer.after],
            before=len(answer.history) if asks else 0,
            conversation=answer.conversation or str(uuid.uuid4()),
            key=answer.key,
            created_ms=self._clock.now_ms(),
            journal=pack_journal(answer.journal) if asks else b"",
        )
        await self._shelf.put(UserId(answer.wanted.person.user), name, kept)


def question_name(model: str, history: Sequence[tuple[str, str]]) -> str:
    """Under what name a question is kept for clients that send everything again: by what was
    said so far. White space at the ends does not count, clients differ there."""
    said = [[role, text.strip()] for role, text in history]
    digest = hashlib.sha256(json.dumps([model, said]).encode()).hexdigest()
    return f"q_{digest[:40]}"


def _spoken(question: Question, more: bool) -> str:
    """A question as text, its options numbered."""
    options = [f"{number}. {option}" for number, option in enumerate(question.options, 1)]
    return ("\n\n" if more else "") + "\n".join([question.text, *options])
