"""Turns and deliveries over SQLite: the reading side (the vault writes them)."""

import sqlite3
from dataclasses import dataclass

from angarium.ids import ConversationId, DeviceId, UserId
from angarium.storage.contract import Delivery, Turn, TurnState
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane

# The column `reply` is older than its use: it holds the trace.
TURN_COLUMNS = (
    "conversation, sequence, owner, state, body, agent, attempts, reason, progress, reply,"
    " created_ms, updated_ms"
)
DELIVERY_COLUMNS = (
    "id, channel, contact, ord, state, body, attempts, due_ms, expires_ms, provider_id,"
    " reason, updated_ms"
)
_OPEN_TURN = "state IN ('offered', 'running', 'waiting')"
_OPEN_DELIVERY = "state IN ('pending', 'sending', 'unknown')"

_DEAD = (
    "SELECT id, updated_ms FROM turns WHERE state = 'failed'"
    " AND (body <> x'' OR progress <> x'') ORDER BY updated_ms DESC, id DESC"
)
_DUE = (
    "WHERE pk IN (SELECT pk FROM (SELECT pk, due_ms,"  # noqa: S608
    " row_number() OVER (PARTITION BY contact ORDER BY ord, pk) AS place FROM deliveries"
    f" WHERE channel = ? AND {_OPEN_DELIVERY}) WHERE place = 1 AND due_ms <= ?)"
    " ORDER BY due_ms, pk LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class SqliteTurns:
    """See storage.contract.Turns."""

    commits: Commits
    reads: Lane

    async def find(self, conversation: ConversationId, sequence: int) -> Turn | None:
        found = await self._select(
            "WHERE conversation = ? AND sequence = ?", conversation, sequence
        )
        return found[0] if found else None

    async def list_open(self, owner: DeviceId) -> list[Turn]:
        return await self._select(
            f"WHERE owner = ? AND {_OPEN_TURN} ORDER BY conversation, sequence", owner
        )

    async def list_recent(self, turns_max: int, state: TurnState | None = None) -> list[Turn]:
        if state is None:
            return await self._select("ORDER BY id DESC LIMIT ?", turns_max)
        return await self._select("WHERE state = ? ORDER BY id DESC LIMIT ?", state, turns_max)

    async def bury(self, before_ms: int, kept_max: int) -> int:
        # Looked for beside the writes: there is no index for what is rare.
        def look(connection: sqlite3.Connection) -> list[int]:
            return [
                number
                for place, (number, updated_ms) in enumerate(connection.execute(_DEAD))
                if place >= kept_max or updated_ms < before_ms
            ]

        dead = await self.reads.read(look)

        def work(connection: sqlite3.Connection) -> int:
            statement = (
                "UPDATE turns SET body = x'', progress = x'' WHERE id = ? AND state = 'failed'"
            )
            return connection.executemany(statement, [(number,) for number in dead]).rowcount

        return await self.commits.write(work) if dead else 0

    async def _select(self, rest: str, *values: str | int) -> list[Turn]:
        def work(connection: sqlite3.Connection) -> list[Turn]:
            rows = connection.execute(
                f"SELECT {TURN_COLUMNS} FROM turns {rest}",  # noqa: S608
                values,
            ).fetchall()
            return [Turn(*row) for row in rows]

        return await self.reads.read(work)


@dataclass(frozen=True, slots=True)
class SqliteOutbox:
    """See storage.contract.Outbox."""

    reads: Lane

    async def find(self, delivery: str) -> Delivery | None:
        found = await self._select("WHERE id = ?", delivery)
        return found[0] if found else None

    async def find_by_provider_id(self, channel: str, provider_id: str) -> Delivery | None:
        found = await self._select(
            "WHERE channel = ? AND provider_id = ? AND provider_id <> ''", channel, provider_id
        )
        return found[0] if found else None

    async def list_due(self, channel: str, now_ms: int, deliveries_max: int) -> list[Delivery]:
        return await self._select(
            _DUE,
            channel,
            now_ms,
            deliveries_max,
        )

    async def list_of(self, contact: UserId) -> list[Delivery]:
        return await self._select("WHERE contact = ? ORDER BY ord, pk", contact)

    async def list_recent(self, deliveries_max: int) -> list[Delivery]:
        return await self._select("ORDER BY pk DESC LIMIT ?", deliveries_max)

    async def _select(self, rest: str, *values: str | int) -> list[Delivery]:
        def work(connection: sqlite3.Connection) -> list[Delivery]:
            rows = connection.execute(
                f"SELECT {DELIVERY_COLUMNS} FROM deliveries {rest}",  # noqa: S608
                values,
            ).fetchall()
            return [Delivery(*row) for row in rows]

        return await self.reads.read(work)
