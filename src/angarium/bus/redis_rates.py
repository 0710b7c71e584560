"""Rates in Redis: many principals in one script, each a time at which its bucket is full."""

import asyncio
from collections.abc import Sequence
from zlib import crc32

from angarium.bus.rates import MINUTE_S, Spent
from angarium.bus.redis_link import RedisLink, in_time, lua
from angarium.limits import BUS_TOPICS_CLUSTER, RATES_DEBT_S_MAX


class RedisRates:
    """Implements `Rates`. The link belongs to the caller.

    `<namespace>:rate:<name>:{<group>}:<key>` is forgotten by the server when the bucket is full
    again. In a cluster a principal's group chooses the server; one server has one group.
    """

    def __init__(
        self, link: RedisLink, name: str, rate_per_minute: int, *, namespace: str = "angarium"
    ) -> None:
        self._link, self._prefix = link, f"{namespace}:rate:{name}"
        self._token_ms = MINUTE_S * 1000 / rate_per_minute
        self._most_ms = (MINUTE_S + RATES_DEBT_S_MAX) * 1000
        self._groups = BUS_TOPICS_CLUSTER if link.clustered else 1
        self._settle = lua("rates_settle")

    async def settle(self, spent: Sequence[Spent]) -> Sequence[float]:
        by_group: dict[int, list[int]] = {}
        for n, each in enumerate(spent):
            group = crc32(each.key.encode(errors="replace")) % self._groups
            by_group.setdefault(group, []).append(n)
        used = [0.0] * len(spent)
        answers = await in_time(
            asyncio.gather(
                *(
                    self._run(group, [spent[n] for n in places])
                    for group, places in by_group.items()
                )
            )
        )
        for places, answer in zip(by_group.values(), answers, strict=True):
            for n, level in zip(places, answer, strict=True):
                used[n] = float(level)
        return used

    async def _run(self, group: int, spent: Sequence[Spent]) -> list[bytes]:
        keys = [f"{self._prefix}:{{{group}}}:{each.key}" for each in spent]
        levels = [level for each in spent for level in (each.tokens, each.used)]
        answer: list[bytes] = await self._link.script_over(
            self._settle, keys, self._token_ms, self._most_ms, *levels
        )
        return answer
