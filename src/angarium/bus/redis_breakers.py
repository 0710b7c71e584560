"""Breakers that nodes open and close together, through one small table in Redis."""

import asyncio
from collections.abc import Mapping

from angarium.bus.redis_link import RedisLink, in_time, lua
from angarium.clock import Clock
from angarium.errors import Unavailable
from angarium.limits import (
    BREAKER_ASK_AGAIN_S,
    BREAKER_PROBE_S,
    BREAKERS_KEPT_S,
    BREAKERS_LOOK_S,
    SOFT_AWAY_S,
)
from angarium.resilience import BREAKER_OPEN_S, Told


class RedisBreakers:
    """Implements `BreakerPeers`. `start`, then `close`. The link belongs to the caller.

    What this node says is told at once, what others say is looked for each BREAKERS_LOOK_S.
    While Redis is away each node's breakers go by what that node sees; what it forgot is said
    again. Names of breakers are words of the code or of the settings.
    """

    def __init__(
        self, link: RedisLink, node: str, clock: Clock, *, namespace: str = "angarium"
    ) -> None:
        self._link, self._node, self._clock = link, node, clock
        self._key = f"{namespace}:breakers"
        self._told: dict[str, list[Told]] = {}
        self._stamps: dict[str, int] = {}
        self._open_until_s: dict[str, float] = {}
        self._unsaid: dict[str, str] = {}
        self._said = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._shared, self._failures = True, 0
        self._say_script, self._look_script = lua("breakers_say"), lua("breakers_look")
        self._probe_script = lua("breakers_probe")

    # --- what breakers say ------------------------------------------------------------------

    def join(self, name: str, told: Told) -> None:
        self._told.setdefault(name, []).append(told)

    def opened(self, name: str) -> None:
        self._open_until_s[name] = self._clock.monotonic_s() + BREAKER_OPEN_S
        self._say(name, "opened")

    def closed(self, name: str) -> None:
        self._open_until_s.pop(name, None)
        self._say(name, "closed")

    def released(self, name: str) -> None:
        self._say(name, "released")

    async def probe(self, name: str) -> float:
        try:
            await self._say_now(name)
            word, *rest = await in_time(
                self._link.script(
                    self._probe_script, self._key, name, self._node,
                    round(BREAKER_PROBE_S * 1000), round(BREAKER_ASK_AGAIN_S * 1000),
                    BREAKERS_KEPT_S,
                )
            )  # fmt: skip
        except Unavailable:
            self._failed()
            return 0.0
        if word == b"wait":
            return max(0.001, int(rest[0]) / 1000)
        if word == b"closed":
            self._hear(name, int(rest[0]), None)
        return 0.0

    def figures(self) -> Mapping[str, int | float]:
        return {
            "shared": int(self._shared),
            "open": len(self._open_until_s),
            "failures": self._failures,
        }

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="breakers.look")

    async def close(self) -> None:
        """Safe to repeat. A probe of this node that still runs is forgotten with its time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            self._said.clear()
            try:
                await self._say_all()
                await self._look()
                self._shared, wait_s = True, BREAKERS_LOOK_S
            except Unavailable:
                self._failed()
                wait_s = SOFT_AWAY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._said.wait()
            except TimeoutError:
                pass

    # --- Redis --------------------------------------------------------------------------------

    def _say(self, name: str, word: str) -> None:
        # A release says nothing that an outcome not yet told would not say.
        if word != "released" or name not in self._unsaid:
            self._unsaid[name] = word
        self._said.set()

    async def _say_all(self) -> None:
        for name in list(self._unsaid):
            await self._say_now(name)

    async def _say_now(self, name: str) -> None:
        word = self._unsaid.pop(name, "")
        if not word:
            return
        try:
            await self._tell(name, word)
        except BaseException:
            self._unsaid.setdefault(name, word)
            raise

    async def _tell(self, name: str, word: str) -> None:
        left_s = self._open_until_s.get(name, 0.0) - self._clock.monotonic_s()
        stamp = await in_time(
            self._link.script(
                self._say_script, self._key, name, self._node, word,
                max(0, round(left_s * 1000)), BREAKERS_KEPT_S,
            )
        )  # fmt: skip
        if word in ("opened", "closed"):
            self._stamps[name] = int(stamp)

    async def _look(self) -> None:
        if not self._told:
            return
        found = await in_time(self._link.script(self._look_script, self._key))
        names = set()
        for name, stamp, left_ms in found:
            names.add(name.decode())
            self._hear(name.decode(), int(stamp), None if left_ms < 0 else left_ms / 1000)
        for name in self._open_until_s.keys() - names - self._unsaid.keys():
            await self._tell(name, "lost")

    def _hear(self, name: str, stamp: int, left_s: float | None) -> None:
        if stamp <= self._stamps.get(name, 0) or name in self._unsaid or name not in self._told:
            return
        self._stamps[name] = stamp
        if left_s is None:
            self._open_until_s.pop(name, None)
        else:
            self._open_until_s[name] = self._clock.monotonic_s() + left_s
        for told in self._told[name]:
            told(left_s)

    def _failed(self) -> None:
        self._failures += 1
        self._shared = False
