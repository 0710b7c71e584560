"""What operators do to conversations, from any node on the store. The HTTP API and a console
call this; the gateway that holds the lease carries it out, within CONTROL_LOOK_S.
"""

from collections.abc import Callable

from angarium.agents.controls import Control, ControlKind, Controls, Taken
from angarium.agents.memory import ANYBODY
from angarium.clock import Clock
from angarium.errors import Busy, Conflict, Malformed, TooLarge
from angarium.ids import ConversationId, check_uuid, uuid7
from angarium.limits import (
    CONTROL_LOOK_S,
    CONTROLS_WAITING_MAX,
    OPERATOR_NAME_CHARS_MAX,
    REPLY_BYTES_MAX,
)


class Operators:
    """`call` is a UUID that names the call: the same again changes nothing; empty: a new one,
    which is returned. `ring` wakes a gateway of this process."""

    def __init__(
        self, controls: Controls, clock: Clock, ring: Callable[[], None] = lambda: None
    ) -> None:
        self._controls, self._clock, self._ring = controls, clock, ring

    async def taken(self) -> list[Taken]:
        """Conversations that people have, or are waited for: the longest waiting first."""
        found = await self._controls.taken()
        return sorted(found, key=lambda taken: (taken.human != ANYBODY, taken.since_ms))

    async def take_over(
        self, conversation: ConversationId, operator: str, name: str = "", call: str = ""
    ) -> str:
        """Agents are silent there from now on; the person is told that `name` answers.

        Raises Conflict where another operator has it, Malformed, Busy.
        """
        if len(name) > OPERATOR_NAME_CHARS_MAX or not name.isprintable():
            raise Malformed(f"a name has at most {OPERATOR_NAME_CHARS_MAX} printable letters")
        holder = await self._holder(conversation)
        if holder not in {"", ANYBODY, operator}:
            raise Conflict("another operator has this conversation")
        return await self._put(conversation, "takeover", operator, call, name=name)

    async def reply(
        self, conversation: ConversationId, operator: str, text: str, call: str = ""
    ) -> str:
        """Say `text` there, as a human. Raises Conflict where this operator neither has the
        conversation nor is about to, Malformed, TooLarge, Busy."""
        if not text.strip():
            raise Malformed("a reply has a text")
        if len(text.encode()) > REPLY_BYTES_MAX:
            raise TooLarge(f"a reply has at most {REPLY_BYTES_MAX} bytes")
        if await self._holder(conversation) != operator:
            raise Conflict("take the conversation over first")
        return await self._put(conversation, "reply", operator, call, text=text)

    async def hand_back(
        self, conversation: ConversationId, operator: str, call: str = ""
    ) -> str:
        """Agents answer there again. Raises Conflict where another operator has it, Busy."""
        holder = await self._holder(conversation)
        if holder not in {"", ANYBODY, operator}:
            raise Conflict("another operator has this conversation")
        return await self._put(conversation, "handback", operator, call)

    async def _holder(self, conversation: ConversationId) -> str:
        """Who has it, once what was asked for is carried out."""
        found = await self._controls.taken(conversation)
        holder = found[0].human if found else ""
        for waiting in await self._controls.waiting(conversation):
            if waiting.control.kind == "takeover" and holder in {"", ANYBODY}:
                holder = waiting.control.by
            elif waiting.control.kind == "handback" and holder == waiting.control.by:
                holder = ""
        return holder

    async def _put(
        self,
        conversation: ConversationId,
        kind: ControlKind,
        operator: str,
        call: str,
        *,
        name: str = "",
        text: str = "",
    ) -> str:
        waiting = await self._controls.waiting(conversation)
        if len(waiting) >= CONTROLS_WAITING_MAX:
            raise Busy(
                "the gateway has not yet done what was asked for", round(CONTROL_LOOK_S * 1000)
            )
        now_ms = self._clock.now_ms()
        if waiting:  # After what was asked for before, whatever the clocks of nodes say.
            now_ms = max(now_ms, waiting[-1].control.at_ms + 1)
        call = check_uuid(call) if call else uuid7(now_ms)
        control = Control(kind, operator, name, text, now_ms)
        await self._controls.write(conversation, call, control)
        self._ring()
        return call
