"""Who is here: told to those who asked for it and share a conversation, over all nodes."""

import asyncio
from collections.abc import Collection, Iterable

from angarium.bus.presence import Presence
from angarium.clock import Clock
from angarium.errors import Unavailable
from angarium.ids import UserId
from angarium.limits import (
    PRESENCE_CONNECTIONS_AT_ONCE,
    PRESENCE_CONVERSATIONS_MAX,
    PRESENCE_LOOK_AGAIN_S,
    RELIST_EVERY_S,
    SOFT_AWAY_S,
)
from angarium.messaging.chores import Chores
from angarium.messaging.connection import Connection
from angarium.messaging.conversations import Live
from angarium.messaging.delivery import Delivery
from angarium.messaging.events import PRESENCE, Events
from angarium.protocol.frames import Evt


class Roll:
    """A user is present while any node has a connection of it that asked for presence.

    Without `presence`, or while it does not answer, this node goes by its own connections. What
    connections here were told wrongly or not at all (an event lost, a node dead, Redis away)
    is set right by `look`, each RELIST_EVERY_S and when a peer is lost or heard again.
    """

    def __init__(
        self,
        *,
        delivery: Delivery,
        events: Events,
        chores: Chores,
        clock: Clock,
        presence: Presence | None,
    ) -> None:
        self._delivery, self._events, self._chores = delivery, events, chores
        self._clock, self._presence = clock, presence
        self._here: dict[UserId, set[Connection]] = {}
        self._believed: set[UserId] = set()  # Told to be present, to connections of this node.
        self._noted: set[UserId] = set()  # Told of, while a look is under way.
        self._looking = self._again = False
        self._due_s = clock.monotonic_s() + RELIST_EVERY_S
        events.noted = self._note

    def came(self, connection: Connection) -> None:
        """The connection was welcomed."""
        if PRESENCE not in connection.machine.features:
            return
        mates = self._here.setdefault(connection.user, set())
        first = not mates
        mates.add(connection)
        lives = self._followed(connection)
        if self._presence is None:
            self._greet(connection, lives, first, set())
            return
        if first:
            self._presence.came(connection.user)
        work = self._greet_later(connection, lives, first)
        self._chores.start(work, "messaging.presence")

    def went(self, connection: Connection) -> None:
        """The connection ended. Call while its conversations are still followed."""
        mates = self._here.get(connection.user, set())
        if connection not in mates:
            return
        mates.remove(connection)
        if mates:
            return
        del self._here[connection.user]
        lives = self._followed(connection)
        if self._presence is None:
            self._tell(connection, lives, on=False)
            return
        self._presence.went(connection.user)
        self._chores.start(self._leave(connection, lives), "messaging.presence")

    def tick(self) -> None:
        """Look when it is time."""
        if self._clock.monotonic_s() >= self._due_s:
            self.look()

    def look(self) -> None:
        """Compare what connections here were told with who is present now."""
        self._due_s = self._clock.monotonic_s() + RELIST_EVERY_S
        if self._presence is None:
            return
        if self._looking:
            self._again = True  # Its answers may be older than what happened now.
            return
        self._looking = True
        self._chores.start(self._look(), "messaging.presence")

    # --- coming and going -----------------------------------------------------------------

    async def _greet_later(
        self, connection: Connection, lives: list[Live], first: bool
    ) -> None:
        users = {each.user for live in lives for each in live.conversation.participants}
        elsewhere = await self._elsewhere(users | {connection.user})
        if connection in self._here.get(connection.user, ()):
            self._greet(connection, lives, first, elsewhere or set())

    def _greet(
        self,
        connection: Connection,
        lives: list[Live],
        first: bool,
        elsewhere: Collection[UserId],
    ) -> None:
        own = connection.user
        if first and own not in elsewhere:
            self._tell(connection, lives, on=True)
        for live in lives:
            for each in live.conversation.participants:
                if each.user != own and (each.user in self._here or each.user in elsewhere):
                    frame = Evt(live.conversation.id, PRESENCE, sender=each.user)
                    self._events.write([connection], frame)

    async def _leave(self, connection: Connection, lives: list[Live]) -> None:
        user = connection.user
        elsewhere = await self._elsewhere({user})
        if user in self._here or (elsewhere and user in elsewhere):
            return
        self._tell(connection, lives, on=False)
        # It may have come to another node between the answer and the telling.
        await asyncio.sleep(PRESENCE_LOOK_AGAIN_S)
        if user not in self._here and user in (await self._elsewhere({user}) or ()):
            self._tell(connection, lives, on=True)

    async def _elsewhere(self, users: Collection[UserId]) -> set[UserId] | None:
        """None: nobody knows; what is told by that is looked after soon."""
        if self._presence is None:
            return None
        try:
            return await self._presence.elsewhere(users)
        except Unavailable:
            self._due_s = min(self._due_s, self._clock.monotonic_s() + SOFT_AWAY_S)
            return None

    def _tell(self, connection: Connection, lives: Iterable[Live], *, on: bool) -> None:
        user, device = connection.user, connection.device
        for live in lives:
            users = tuple(
                each.user for each in live.conversation.participants if each.user != user
            )
            frame = Evt(live.conversation.id, PRESENCE, on=on, sender=user, dev=device)
            self._events.publish(live, users, frame)

    def _followed(self, connection: Connection) -> list[Live]:
        cursors = list(connection.machine.backlog.cursors)[-PRESENCE_CONVERSATIONS_MAX:]
        return [live for c in cursors if (live := self._delivery.find(c)) is not None]

    # --- setting right --------------------------------------------------------------------

    def _note(self, user: UserId, on: bool) -> None:
        """Connections here are told just now."""
        (self._believed.add if on else self._believed.discard)(user)
        if self._looking:
            self._noted.add(user)

    async def _look(self) -> None:
        try:
            everyone = [each for mates in self._here.values() for each in mates]
            present, asked = set[UserId](), set[UserId]()
            for at in range(0, len(everyone), PRESENCE_CONNECTIONS_AT_ONCE):
                part = everyone[at : at + PRESENCE_CONNECTIONS_AT_ONCE]
                followed = [(each, self._followed(each)) for each in part]
                users = {
                    each.user
                    for _, lives in followed
                    for live in lives
                    for each in live.conversation.participants
                }
                elsewhere = await self._elsewhere(users)
                if elsewhere is None:
                    return
                now = elsewhere | (users & self._here.keys())
                self._set_right(followed, now)
                present |= now
                asked |= users
            # Whom nobody here shares a conversation with is forgotten.
            self._believed = (present - self._noted) | (self._believed & self._noted)
        finally:
            self._looking = False
            self._noted.clear()
            if self._again:
                self._again = False
                self._due_s = self._clock.monotonic_s()  # With the next tick.

    def _set_right(
        self, followed: Iterable[tuple[Connection, list[Live]]], present: set[UserId]
    ) -> None:
        for connection, lives in followed:
            for live in lives:
                for each in live.conversation.participants:
                    on = each.user in present
                    known = each.user in self._noted or on == (each.user in self._believed)
                    if not known and each.user != connection.user:
                        frame = Evt(live.conversation.id, PRESENCE, on=on, sender=each.user)
                        self._events.tell_again([connection], frame)
