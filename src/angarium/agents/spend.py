"""What agents have spent, per person and per agent and day, and the caps on it.

Sums are in millionths of a dollar and of UTC days. Each writer (the gateway, and each node that
runs agents for requests) keeps records of its own, so that none overwrites another's; a sum is
over all of them.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from angarium.agents.contract import AgentEvent, AgentKind, Done, Person, Usage
from angarium.agents.records import OpenTurn
from angarium.clock import Clock
from angarium.errors import OverBudget, TurnOverBudget
from angarium.kms.contract import Sealer
from angarium.limits import SPEND_KEPT_DAYS, SPENDERS_MAX, USAGE_USD_MAX
from angarium.storage.contract import DropRecord, PutRecord, Vault, Write

Whose = Literal["person", "agent"]
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Caps:
    """In dollars; 0: no cap. The cap on one turn is the agent's `budget_usd`."""

    person_day_usd: float = 0.0
    agent_day_usd: float = 0.0

    def of(self, whose: Whose) -> int:
        """In millionths."""
        usd = self.person_day_usd if whose == "person" else self.agent_day_usd
        return round(usd * _MICRO)


@dataclass(slots=True)
class _Purse:
    """What one has spent today: by this writer, and by the others when last looked."""

    own: int = 0
    others: int = 0


class Spend:
    """Of one writer. `scope` is the gateway device's."""

    def __init__(
        self, vault: Vault, sealer: Sealer, scope: str, clock: Clock, caps: Caps, writer: str
    ) -> None:
        self._vault, self._sealer, self._clock = vault, sealer, clock
        self._scope, self._caps, self._writer = f"{scope}/spend", caps, writer
        self._purses: OrderedDict[str, _Purse] = OrderedDict()

    # --- turns --------------------------------------------------------------------------------

    async def metered(
        self, turn: OpenTurn, agent: AgentKind, events: AsyncIterator[AgentEvent]
    ) -> AsyncIterator[AgentEvent]:
        """The events, with what they cost counted. Raises OverBudget before the first of them
        where a cap is reached already, and where an agent goes on after it has passed one; an
        answer that is paid for and complete is given."""
        stream: Any = events
        over: OverBudget | None = None
        async with aclosing(stream):
            await self._check(agent.name, turn.heard.sender)
            async for event in stream:
                if over is not None and not isinstance(event, Usage | Done):
                    raise over
                if isinstance(event, Usage):
                    over = await self._count(agent, turn, event)
                yield event

    async def _count(self, agent: AgentKind, turn: OpenTurn, usage: Usage) -> OverBudget | None:
        """What is passed with this, if anything."""
        cost = _micro(usage)
        turn.spent += cost
        turn.journal.spent += cost
        await self._add(agent.name, turn.heard.sender, cost)
        budget = round(agent.terms.budget_usd * _MICRO)
        if budget and turn.journal.spent > budget:
            about = f"one turn of {agent.name} may cost {agent.terms.budget_usd} USD"
            return TurnOverBudget(about)
        return self._passed(agent.name, turn.heard.sender)

    def writes(self, turn: OpenTurn) -> list[Write]:
        """What keeps the sums that this turn has changed; nothing where it has cost nothing."""
        if not turn.spent:
            return []
        return self._puts(turn.record.agent, turn.heard.sender)

    # --- requests -----------------------------------------------------------------------------

    async def used(self, agent: AgentKind, person: Person, usage: Usage) -> None:
        """Count what a request has cost, durably. Raises OverBudget where a cap is passed."""
        await self._add(agent.name, person.user, _micro(usage))
        await self._vault.write(self._puts(agent.name, person.user))
        over = self._passed(agent.name, person.user)
        if over is not None:
            raise over

    async def check_request(self, agent: AgentKind, person: Person) -> None:
        """Raises OverBudget where a cap is reached already."""
        await self._check(agent.name, person.user)

    # --- sums ---------------------------------------------------------------------------------

    async def sums_usd(self, whose: Whose, day: str = "") -> dict[str, float]:
        """By name, what was spent on a day (`2026-11-24`; today)."""
        sums: dict[str, int] = {}
        prefix = f"{whose}/{day or self._day()}/"
        for record in await self._vault.read(self._scope, prefix):
            name = record.key.removeprefix(prefix).rpartition("/")[0]
            sums[name] = sums.get(name, 0) + self._open(record.key, record.blob)
        return {name: micro / _MICRO for name, micro in sorted(sums.items())}

    async def sweep(self) -> int:
        """Drop sums older than SPEND_KEPT_DAYS, as far back again; returns how many."""
        dropped = 0
        for age in range(SPEND_KEPT_DAYS + 1, 2 * SPEND_KEPT_DAYS):
            for whose in ("person", "agent"):
                found = await self._vault.read(self._scope, f"{whose}/{self._day(age)}/")
                if found:
                    await self._vault.write([DropRecord(self._scope, one.key) for one in found])
                    dropped += len(found)
        return dropped

    def _day(self, age: int = 0) -> str:
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        return (now - timedelta(days=age)).date().isoformat()

    async def _check(self, agent: str, user: str) -> None:
        if self._caps.person_day_usd or self._caps.agent_day_usd:
            for whose, name in self._both(agent, user):
                await self._purse(whose, name, fresh=True)
            over = self._passed(agent, user)
            if over is not None:
                raise over

    def _passed(self, agent: str, user: str) -> OverBudget | None:
        """Where a cap is reached, which."""
        for whose, name in self._both(agent, user):
            cap = self._caps.of(whose)
            purse = self._purses.get(f"{whose}/{self._day()}/{name}")
            if cap and purse is not None and purse.own + purse.others >= cap:
                return OverBudget(f"this {whose} has used up what a day may cost")
        return None

    async def _add(self, agent: str, user: str, cost: int) -> None:
        for whose, name in self._both(agent, user):
            purse = await self._purse(whose, name)
            purse.own += cost

    async def _purse(self, whose: Whose, name: str, fresh: bool = False) -> _Purse:
        place = f"{whose}/{self._day()}/{name}"
        known = self._purses.get(place)
        if known is None or fresh:
            own, others = 0, 0
            for record in await self._vault.read(self._scope, f"{place}/"):
                micro = self._open(record.key, record.blob)
                if record.key == f"{place}/{self._writer}":
                    own = micro
                else:
                    others += micro
            # Another turn may have loaded it meanwhile; our own sum in memory is the newer one.
            known = self._purses.setdefault(place, _Purse(own))
            known.others = others
        self._purses.move_to_end(place)
        while len(self._purses) > SPENDERS_MAX:
            self._purses.popitem(last=False)
        return known

    def _puts(self, agent: str, user: str) -> list[Write]:
        writes: list[Write] = []
        for whose, name in self._both(agent, user):
            place = f"{whose}/{self._day()}/{name}"
            purse = self._purses.get(place)
            if purse is not None:
                key = f"{place}/{self._writer}"
                plain = purse.own.to_bytes(8, "big")
                sealed = self._sealer.seal(plain, f"{self._scope}/{key}")
                writes.append(PutRecord(self._scope, key, sealed))
        return writes

    def _open(self, key: str, blob: bytes) -> int:
        return int.from_bytes(self._sealer.unseal(blob, f"{self._scope}/{key}"), "big")

    def _both(self, agent: str, user: str) -> tuple[tuple[Whose, str], tuple[Whose, str]]:
        return (("person", user), ("agent", agent))


def _micro(usage: Usage) -> int:
    """What an agent says it has cost, within reason: nobody is paid back."""
    cost = usage.cost_usd
    if not cost > 0:  # Also where it is no number.
        return 0
    return round(min(cost, USAGE_USD_MAX) * _MICRO)
