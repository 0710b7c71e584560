"""Conversations that people have: an agent or a person asks for them, an operator takes over,
answers and hands back. Agents are silent meanwhile, and what was written then is never answered
by one later.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from angarium.agents import sentences
from angarium.agents.contract import AgentKind
from angarium.agents.controls import Controls, Taken, Waiting
from angarium.agents.forgetting import end_questions
from angarium.agents.memory import ANYBODY, Notes, Route, after_exchange
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.replies import Replies
from angarium.agents.sentences import Sentence, say
from angarium.e2ee.body import Body
from angarium.errors import Conflict
from angarium.ids import ConversationId, MessageKey, uuid7
from angarium.limits import HUMAN_IDLE_S, HUMAN_WAIT_S
from angarium.storage.contract import PutTurn, Write

HUMAN = "human"  # As an agent's name: whoever answers in person.


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that operators should know. Without content."""

    what: Literal[
        "human.wanted", "human.came", "human.left", "human.missed", "person.forgotten"
    ]
    conversation: ConversationId
    who: str


Tell = Callable[[Notice], Awaitable[None]]


async def tell_nobody(_notice: Notice) -> None:
    """The notices of a gateway that has no operators."""


@dataclass(frozen=True, slots=True)
class HumanHours:
    """How long (seconds) a person who asks for people waits for them, 0: there are none; and
    how long an operator may be silent before agents answer again."""

    wait_s: float = HUMAN_WAIT_S
    idle_s: float = HUMAN_IDLE_S


def may_hand_to(agent: AgentKind, to: str) -> bool:
    """Whether the agent's terms let it pass turns to `to`; "not mine" it may always say."""
    allowed = agent.terms.can_handoff
    return not to or "*" in allowed or to in allowed


class Humans:
    """Carries out what concerns people who answer; one conversation is one lane's."""

    def __init__(
        self, desk: Desk, replies: Replies, controls: Controls, hours: HumanHours, tell: Tell
    ) -> None:
        self._desk, self._replies, self._controls = desk, replies, controls
        self._hours, self._tell = hours, tell

    # --- turns --------------------------------------------------------------------------------

    async def wanted(self, turn: OpenTurn, reason: str, said: str = "") -> None:
        """People are to answer: tell the person and the operators. `said` is what the agent
        that asks for them has said before."""
        now_ms = self._desk.clock.now_ms()
        agent = turn.record.agent
        lead = f"{said.rstrip()}\n\n" if said.strip() else ""
        if self._hours.wait_s <= 0:
            text = lead + say(sentences.NO_HUMANS, turn.language)
            return await self._replies.finish(turn, text, agent=agent, reason=reason)
        ended, calm = await end_questions(self._desk, turn.notes, reason)
        asked = msgspec.structs.replace(
            calm, human=ANYBODY, human_name="", human_since_ms=now_ms, human_active_ms=now_ms
        )
        also = [*ended, self._put_taken(turn.record.conversation, asked)]
        text = lead + say(sentences.HUMAN_CALLED, turn.language)
        await self._replies.finish(
            turn, text, agent=agent, reason=reason, route=asked, also=also
        )
        await self._tell(Notice("human.wanted", turn.record.conversation, turn.heard.sender))
        return None

    async def heard(self, turn: OpenTurn) -> None:
        """A message while people have the conversation: no agent answers it, ever."""
        record = self._replies.final(turn.record, "expired", f"{HUMAN} has the conversation")
        said = [("user", turn.heard.body.text)]
        await self._desk.write(PutTurn(record), *self._remember(turn.notes, said))

    # --- operators ----------------------------------------------------------------------------

    async def take_over(self, notes: Notes, waiting: Waiting) -> None:
        """Raises Conflict where another operator has it."""
        control, route = waiting.control, notes.route
        if route.human not in {"", ANYBODY, control.by}:
            raise Conflict("another operator has this conversation")
        now_ms = self._desk.clock.now_ms()
        ended, calm = await end_questions(self._desk, notes, "takeover")
        taken = msgspec.structs.replace(
            calm,
            human=control.by,
            human_name=control.name,
            human_since_ms=now_ms,
            human_active_ms=now_ms,
        )
        language = _language(route)
        name = control.name or say(sentences.A_PERSON, language)
        text = say(sentences.HUMAN_CAME, language, name=name)
        body = Body(type="system", text=text, agent=HUMAN, name=control.name)
        await self._write(notes, waiting, body, taken, ended)
        await self._tell(Notice("human.came", notes.conversation, control.by))

    async def reply(self, notes: Notes, waiting: Waiting) -> None:
        """Raises Conflict where this operator does not have it."""
        control, route = waiting.control, notes.route
        if route.human != control.by:
            raise Conflict("take the conversation over first")
        active = msgspec.structs.replace(route, human_active_ms=self._desk.clock.now_ms())
        body = Body(text=control.text, agent=HUMAN, name=control.name or route.human_name)
        also = self._remember(notes, [("agent", control.text)])
        await self._write(notes, waiting, body, active, also)

    async def hand_back(self, notes: Notes, waiting: Waiting) -> None:
        """Raises Conflict where another operator has it. Nothing where nobody has."""
        control, route = waiting.control, notes.route
        if route.human not in {"", ANYBODY, control.by}:
            raise Conflict("another operator has this conversation")
        if not route.human:
            return await self._desk.write(self._controls.drop(waiting))
        text = say(sentences.AGENTS_AGAIN, _language(route))
        body = Body(type="system", text=text)
        await self._write(notes, waiting, body, _without_human(route), ())
        await self._tell(Notice("human.left", notes.conversation, control.by))
        return None

    # --- time ---------------------------------------------------------------------------------

    def is_over(self, human: str, since_ms: int, active_ms: int) -> bool:
        """Whether nobody came in time, or the one who came is silent too long."""
        now_ms = self._desk.clock.now_ms()
        if human == ANYBODY:
            return now_ms - since_ms > self._hours.wait_s * 1000
        return bool(human) and now_ms - active_ms > self._hours.idle_s * 1000

    async def give_back_late(self, notes: Notes) -> bool:
        """Where the time of people is over, agents answer again and the person is told."""
        route = notes.route
        if not self.is_over(route.human, route.human_since_ms, route.human_active_ms):
            return False
        missed = route.human == ANYBODY
        sentence: Sentence = sentences.NOBODY_CAME if missed else sentences.AGENTS_AGAIN
        body = Body(type="system", text=say(sentence, _language(route)))
        free = _without_human(route)
        key = MessageKey(uuid7(route.human_active_ms, _from(notes.conversation)))
        writes = self._route_writes(notes.conversation, free)
        await self._desk.endpoint.submit(notes.conversation, body, key=key, also=writes)
        await self._desk.write(*writes)  # A key submitted before has written nothing.
        notes.route = free
        await self._tell(
            Notice("human.missed" if missed else "human.left", notes.conversation, route.human)
        )
        return True

    async def release(self, turn: OpenTurn) -> None:
        """The person wants agents again."""
        free = _without_human(turn.notes.route)
        who = turn.notes.route.human
        await self._desk.write(*self._route_writes(turn.record.conversation, free))
        turn.notes.route = free
        await self._tell(Notice("human.left", turn.record.conversation, who))

    # --- writing ------------------------------------------------------------------------------

    async def _write(
        self, notes: Notes, waiting: Waiting, body: Body, route: Route, also: Sequence[Write]
    ) -> None:
        """The message, what it changes and the end of the control, in one write."""
        writes = [
            *also,
            *self._route_writes(notes.conversation, route),
            self._controls.drop(waiting),
        ]
        key = MessageKey(waiting.id)
        await self._desk.endpoint.submit(notes.conversation, body, key=key, also=writes)
        await self._desk.write(*writes)  # A key submitted before has written nothing.
        notes.route = route

    def _route_writes(self, conversation: ConversationId, route: Route) -> list[Write]:
        put = self._desk.notebook.put_route(conversation, route)
        if route.human:
            return [put, self._put_taken(conversation, route)]
        return [put, self._controls.drop_taken(conversation)]

    def _put_taken(self, conversation: ConversationId, route: Route) -> Write:
        return self._controls.put_taken(
            Taken(
                conversation=conversation,
                human=route.human,
                name=route.human_name,
                agent=route.agent,
                since_ms=route.human_since_ms,
                active_ms=route.human_active_ms,
            )
        )

    def _remember(self, notes: Notes, said: Sequence[tuple[str, str]]) -> list[Write]:
        """What is said now, for the agent that will have the conversation again."""
        agent = notes.route.agent
        if not agent:
            return []
        memory = notes.memory(agent)
        kept = after_exchange(memory, memory.kept, said)
        notes.memories[agent] = kept
        return [*self._desk.notebook.put_memory(notes, agent, kept)]


def _without_human(route: Route) -> Route:
    return msgspec.structs.replace(
        route, human="", human_name="", human_since_ms=0, human_active_ms=0
    )


def _from(conversation: str) -> Callable[[int], bytes]:
    """The same message key for the same conversation and time, whoever asks again."""
    return lambda count: conversation.replace("-", "").encode()[-count:]


def _language(route: Route) -> str:
    """Of whoever wrote here last and let it be told."""
    return route.languages[-1][1] if route.languages else ""
