"""Presence in Redis: each node keeps one set of the users connected to it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

from angarium.bus.redis_link import RedisLink, in_time, lua
from angarium.clock import Clock
from angarium.errors import Unavailable
from angarium.ids import UserId
from angarium.limits import NODE_LEASE_S, PRESENCE_KEPT_S, PRESENCE_USERS_AT_ONCE, SOFT_AWAY_S

T = TypeVar("T")


class RedisPresence:
    """Implements `Presence`. The link belongs to the caller; `nodes` says which nodes live.

    `<namespace>:present:<node>` is a set of user ids. One round is under way at a time; what is
    said and asked meanwhile goes together with the next. After a failure Redis is left alone
    for SOFT_AWAY_S. For one lease after the server began, it may not know everybody yet.
    """

    def __init__(
        self,
        link: RedisLink,
        node: str,
        clock: Clock,
        nodes: Callable[[], Awaitable[set[str]]],
        *,
        namespace: str = "angarium",
        lease_s: float = NODE_LEASE_S,
    ) -> None:
        self._link, self._node, self._clock, self._nodes = link, node, clock, nodes
        self._prefix, self._began = f"{namespace}:present:", f"{namespace}:presence-began"
        self._lease_ms = lease_s * 1000
        self._here: set[UserId] = set()
        self._unsaid: dict[UserId, bool] = {}
        self._fresh = True
        self._asked: list[tuple[frozenset[UserId], asyncio.Future[set[UserId] | None]]] = []
        self._turn = asyncio.Lock()
        self._away_until_s = 0.0
        self._age = lua("presence_age")

    def came(self, user: UserId) -> None:
        self._here.add(user)
        self._unsaid[user] = True

    def went(self, user: UserId) -> None:
        self._here.discard(user)
        self._unsaid[user] = False

    async def elsewhere(self, users: Collection[UserId]) -> set[UserId]:
        answer: asyncio.Future[set[UserId] | None]
        answer = asyncio.get_running_loop().create_future()
        self._asked.append((frozenset(users), answer))
        async with self._turn:
            if not answer.done():
                await self._round()
        found = answer.result()
        if found is None:
            raise Unavailable("redis does not answer")
        return found

    async def renew(self) -> None:
        async with self._turn:
            await self._tell()
            kept = await self._ask("EXPIRE", self._key, PRESENCE_KEPT_S)
            if self._here and not kept:
                self._unsaid = dict.fromkeys(self._here, True) | self._unsaid
                await self._tell()

    async def release(self) -> None:
        async with self._turn:
            self._here.clear()
            self._unsaid.clear()
            await self._ask("DEL", self._key)

    # --- Redis --------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Answer all who wait; None: Redis could not be asked."""
        asked, self._asked = self._asked, []
        try:
            found = await self._find(frozenset[UserId]().union(*(users for users, _ in asked)))
        except Unavailable:
            for _, answer in asked:
                answer.set_result(None)
        except BaseException:
            self._asked = asked + self._asked
            raise
        else:
            for users, answer in asked:
                answer.set_result(set(users & found))

    async def _find(self, users: frozenset[UserId]) -> set[UserId]:
        await self._tell()
        age_ms = await self._call(lambda: self._link.script(self._age, self._began))
        if age_ms < self._lease_ms:
            raise Unavailable("redis forgot who is connected")
        found: set[UserId] = set()
        others = await self._call(self._nodes) - {self._node}
        for part in parts(sorted(users)):
            for node in others:
                here = await self._ask("SMISMEMBER", self._prefix + node, *part)
                found.update(user for user, known in zip(part, here, strict=True) if known)
        return found

    async def _tell(self) -> None:
        if self._fresh:
            # A former process of this name may have left its set.
            await self._ask("DEL", self._key)
            self._fresh = False
        unsaid, self._unsaid = self._unsaid, {}
        try:
            for command, here in (("SADD", True), ("SREM", False)):
                for part in parts([user for user, on in unsaid.items() if on is here]):
                    await self._ask(command, self._key, *part)
            if unsaid:
                await self._ask("EXPIRE", self._key, PRESENCE_KEPT_S)
        except BaseException:
            self._unsaid = unsaid | self._unsaid
            raise

    async def _ask(self, *words: str | int) -> Any:
        return await self._call(lambda: self._link.client.execute_command(*words))

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        now_s = self._clock.monotonic_s()
        if now_s < self._away_until_s:
            raise Unavailable("redis does not answer")
        try:
            return await in_time(call())
        except Unavailable:
            self._away_until_s = now_s + SOFT_AWAY_S
            raise

    @property
    def _key(self) -> str:
        return self._prefix + self._node


def parts(users: Sequence[UserId]) -> Iterator[Sequence[UserId]]:
    for at in range(0, len(users), PRESENCE_USERS_AT_ONCE):
        yield users[at : at + PRESENCE_USERS_AT_ONCE]
