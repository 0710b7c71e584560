"""What a running turn may ask of the gateway: questions, tools, progress."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from angarium.agents.attempt import Attempt
from angarium.agents.contract import Effect, Recalled
from angarium.agents.draft import Draft
from angarium.agents.ledger import Question, call_name, idempotency_key, result_of
from angarium.agents.recall import Recall
from angarium.agents.records import Desk, OpenTurn
from angarium.errors import AngariumError, Conflict
from angarium.storage.contract import PutTurn

EFFECTS = ("read", "keyed", "once")


class Suspended(BaseException):
    """Unwinds an agent's function at a question; it runs again when the answer is there.

    Not an Exception: an agent's `except Exception` must not mistake it for a failure.
    """


class LiveTools:
    """TurnTools of one attempt.

    `question` is set when the attempt ended at a question; `broken` when the store failed under
    it, whatever the agent's function made of that.
    """

    def __init__(
        self,
        desk: Desk,
        turn: OpenTurn,
        draft: Draft,
        recall: Recall,
        attempt: Attempt,
    ) -> None:
        self._desk, self._turn, self._draft, self._attempt = desk, turn, draft, attempt
        self._recall = recall
        self._agent = turn.record.agent
        self._asked = 0
        self._saving = asyncio.Lock()
        self._closed = False
        self.question: Question | None = None
        self.broken: AngariumError | None = None

    def begin(self) -> None:
        """The agent starts from the beginning: its first question is the first again."""
        self._asked = 0

    async def ask(self, question: str, options: Sequence[str] = (), name: str = "") -> str:
        """Return the answer if there is one; otherwise end this attempt at the question."""
        self._check_open()
        self._asked += 1
        known_as = f"{self._agent}/{name or self._asked}"
        known = self._turn.journal.find_question(known_as)
        if known is not None and known.answer is not None:
            self._draft.take()  # It went out with the question.
            self._attempt.alive()
            return known.answer
        said = self._draft.take()
        if known is None:
            text = f"{said.rstrip()}\n\n{question}" if said.strip() else question
            now_ms = self._desk.clock.now_ms()
            known = self._turn.journal.add_question(known_as, text, list(options), now_ms)
        self.question = known
        raise Suspended

    async def call(
        self, name: str, effect: Effect, do: Callable[[str], Awaitable[Any]], *arguments: Any
    ) -> Any:
        """Run `do(idempotency_key)` as its effect allows; see the contract.

        The same name and arguments within one turn are the same call. Arguments and result are
        plain values (text, numbers, bytes, lists, dictionaries), else TypeError.
        """
        if effect not in EFFECTS:
            raise ValueError(f"effect is one of {', '.join(EFFECTS)}, not {effect!r}")
        self._check_open()
        self._attempt.alive()
        call = call_name(self._agent, name, arguments)
        journal, record = self._turn.journal, self._turn.record
        known = journal.begin(call, effect)
        if known is not None:
            return result_of(known)
        if effect != "read":
            self._attempt.fixed = True
        if effect == "once":
            await self._save()
        key = idempotency_key(record.conversation, record.sequence, call)
        with self._attempt.using_tool():
            result = journal.finish(call, await do(key))
        if effect != "read":  # A read's result is saved along with the next thing that matters.
            await self._save()
        return result

    async def keep(self, name: str, value: bytes) -> None:
        """Save `value` in the journal; durable when this returns. Raises TooLarge."""
        self._check_open()
        self._attempt.alive()
        self._turn.journal.kept[f"{self._agent}/{name}"] = value
        await self._save()

    def kept(self, name: str) -> bytes | None:
        """What was kept under `name`."""
        return self._turn.journal.kept.get(f"{self._agent}/{name}")

    async def status(self, text: str) -> None:
        """Show progress; dropped when the attempt is over."""
        if not self._closed:
            self._attempt.alive()
            self._draft.status(text)

    async def recall(self, query: str, limit: int = 5) -> list[Recalled]:
        """Earlier exchanges of this person and this agent, the nearest first."""
        self._check_open()
        self._attempt.alive()
        person = self._turn.person
        found, writes = await self._recall.find(person, self._agent, query, limit)
        if writes and self._desk.journal:
            await self._desk.write(*writes)
        self._attempt.alive()
        return found

    async def save(self) -> None:
        """Save the journal; durable when this returns. Raises TooLarge."""
        self._check_open()
        await self._save()

    async def close(self) -> None:
        """After this, tasks that the function left behind can change nothing."""
        async with self._saving:
            self._closed = True

    async def _save(self) -> None:
        if not self._desk.journal:
            return
        # One save at a time: an older journal must not overwrite a newer one.
        async with self._saving:
            self._check_open()
            record = self._turn.record
            progress = self._desk.seals.seal_journal(record, self._turn.journal)
            saved = replace(record, progress=progress, updated_ms=self._desk.clock.now_ms())
            try:
                await self._desk.write(PutTurn(saved))
            except AngariumError as error:
                self.broken = error
                raise
            self._turn.record = saved

    def _check_open(self) -> None:
        if self._closed or self.question is not None:
            raise Conflict("this attempt of the turn is over")
