"""What a running agent may ask of the gateway outside of conversations: all in memory."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from angarium.agents.contract import AgentEvent, Effect, Recalled, Status, Text
from angarium.agents.ledger import Journal, Question, call_name, idempotency_key, result_of
from angarium.agents.tools import EFFECTS, Suspended
from angarium.errors import Conflict
from angarium.limits import STATUSES_PER_TURN_MAX


class DirectTools:
    """TurnTools of one run; all in memory. `question` is set when it ended at one."""

    def __init__(
        self,
        journal: Journal,
        key: str,
        agent: str,
        told: asyncio.Queue[Any],
        alive: Callable[[], None],
    ) -> None:
        self._journal, self._key, self._agent = journal, key, agent
        self._told, self._alive = told, alive
        self._asked = self._statuses = 0
        self._held: list[AgentEvent] = []
        self._closed = False
        self.question: Question | None = None

    def begin(self) -> None:
        """The agent starts from the beginning: its first question is the first again."""
        self._asked = 0
        self._held = []

    def hold(self, event: AgentEvent) -> bool:
        """Whether the event waits: what is said before an answered question was said then."""
        answered = [
            asked
            for asked in self._journal.questions
            if asked.answer is not None and asked.name.startswith(f"{self._agent}/")
        ]
        if not isinstance(event, Text) or self._asked >= len(answered):
            return False
        self._held.append(event)
        return True

    def release(self) -> list[AgentEvent]:
        """What was held and belongs to no question after all."""
        held, self._held = self._held, []
        return held

    async def ask(self, question: str, options: Sequence[str] = (), name: str = "") -> str:
        """Return the answer if there is one; otherwise end this run at the question."""
        self._check_open()
        self._asked += 1
        known_as = f"{self._agent}/{name or self._asked}"
        known = self._journal.find_question(known_as)
        if known is not None and known.answer is not None:
            self._held = []
            self._alive()
            return known.answer
        self.question = known or self._journal.add_question(
            known_as, question, list(options), 0
        )
        raise Suspended

    async def call(
        self, name: str, effect: Effect, do: Callable[[str], Awaitable[Any]], *arguments: Any
    ) -> Any:
        """Run `do(idempotency_key)`; within one journal a finished call is not run again."""
        if effect not in EFFECTS:
            raise ValueError(f"effect is one of {', '.join(EFFECTS)}, not {effect!r}")
        self._check_open()
        self._alive()
        call = call_name(self._agent, name, arguments)
        known = self._journal.begin(call, effect)
        if known is not None:
            return result_of(known)
        result = self._journal.finish(call, await do(idempotency_key(self._key, 0, call)))
        self._alive()
        return result

    async def keep(self, name: str, value: bytes) -> None:
        """Save `value` in the journal, which is the caller's to store."""
        self._check_open()
        self._journal.kept[f"{self._agent}/{name}"] = value

    def kept(self, name: str) -> bytes | None:
        """What was kept under `name`."""
        return self._journal.kept.get(f"{self._agent}/{name}")

    async def recall(self, query: str, limit: int = 5) -> list[Recalled]:
        """Nothing: of requests nothing is kept."""
        return []

    async def status(self, text: str) -> None:
        """Show progress; dropped where nobody reads it."""
        if self._closed or self._statuses >= STATUSES_PER_TURN_MAX:
            return
        self._statuses += 1
        self._alive()
        if not self._told.full():
            self._told.put_nowait(Status(text))

    def close(self) -> None:
        """After this, tasks that the agent left behind can change nothing."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed or self.question is not None:
            raise Conflict("this run is over")
