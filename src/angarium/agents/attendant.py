"""What goes before all routing: people who have a conversation, the ways to them, `/forget`;
and what is to be done to conversations beside their messages."""

from angarium.agents import sentences
from angarium.agents.controls import Controls, Waiting
from angarium.agents.forgetting import FORGET, Forgetting
from angarium.agents.handoff import Humans, Notice, Tell
from angarium.agents.memory import Notes
from angarium.agents.records import Desk, OpenTurn
from angarium.agents.replies import Replies
from angarium.agents.sentences import say
from angarium.errors import AngariumError, Fenced, StoreUnwritable, Unavailable
from angarium.ids import ConversationId, UserId
from angarium.telemetry.log import get_logger

WANTS_HUMAN, RESET = "/human", "/reset"
log = get_logger("angarium.agents")


class Attendant:
    """`take` looks at each new message first; `attend` works controls off."""

    def __init__(
        self,
        desk: Desk,
        replies: Replies,
        controls: Controls,
        humans: Humans,
        tell: Tell,
    ) -> None:
        self._desk, self._replies, self._controls = desk, replies, controls
        self._humans, self._tell = humans, tell
        self._forgetting = Forgetting(desk, controls)

    async def take(self, turn: OpenTurn) -> bool:
        """Whether the message needs no agent: it was for people, or one of our own words."""
        word = turn.heard.body.text.strip().lower()
        if word == FORGET:
            await self._forget(turn)
            return True
        if turn.notes.route.human and word == RESET:
            await self._humans.release(turn)
        elif turn.notes.route.human and not await self._humans.give_back_late(turn.notes):
            await self._humans.heard(turn)
            return True
        if word == WANTS_HUMAN:
            await self._humans.wanted(turn, WANTS_HUMAN)
            return True
        return False

    async def _forget(self, turn: OpenTurn) -> None:
        language = turn.language
        writes, route = await self._forgetting.person(turn)
        text = say(sentences.FORGOTTEN, language)
        await self._replies.finish(turn, text, reason=FORGET, route=route, also=writes)
        await self._tell(
            Notice("person.forgotten", turn.record.conversation, turn.heard.sender)
        )

    # --- beside the messages ------------------------------------------------------------------

    async def attend(self, conversation: ConversationId) -> None:
        """Do what is to be done to it now. Raises Fenced, Unavailable and StoreUnwritable; what
        cannot be done for any other reason is dropped and told."""
        for waiting in await self._controls.waiting(conversation):
            notes = await self._desk.notebook.load(conversation)
            try:
                await self._carry_out(waiting, notes)
            except (Fenced, Unavailable, StoreUnwritable):
                raise
            except Exception as error:
                if self._desk.endpoint.error is not None:
                    raise  # The device has ended: the next one does it.
                code = error.code if isinstance(error, AngariumError) else type(error).__name__
                log.warning("control.refused", kind=waiting.control.kind, code=code)
                await self._desk.write(self._controls.drop(waiting))
        if await self._controls.taken(conversation):
            await self._humans.give_back_late(await self._desk.notebook.load(conversation))

    async def _carry_out(self, waiting: Waiting, notes: Notes) -> None:
        match waiting.control.kind:
            case "takeover":
                await self._humans.take_over(notes, waiting)
            case "reply":
                await self._humans.reply(notes, waiting)
            case "handback":
                await self._humans.hand_back(notes, waiting)
            case "forget":
                user = UserId(waiting.control.by)
                writes, route = await self._forgetting.conversation(notes, user)
                put = self._desk.notebook.put_route(notes.conversation, route)
                await self._desk.write(*writes, put, self._controls.drop(waiting))

    async def overdue(self) -> list[ConversationId]:
        """Conversations for which there is something to do."""
        late = [
            ConversationId(taken.conversation)
            for taken in await self._controls.taken()
            if self._humans.is_over(taken.human, taken.since_ms, taken.active_ms)
        ]
        return [*await self._controls.conversations(), *late]
