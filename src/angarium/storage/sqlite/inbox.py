"""Webhooks, the audit trail and remembered commands over SQLite."""

import sqlite3
from dataclasses import dataclass
from typing import Any

import msgspec

from angarium.limits import COMMAND_KEY_KEPT_S
from angarium.storage.contract import AuditEntry, WebhookEntry
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode
_WEBHOOK = "id, channel, event, raw, received_ms, attempts"
_EXPIRED_AT_ONCE = 16  # Expired commands dropped with each new one: more than are made.


@dataclass(frozen=True, slots=True)
class SqliteWebhooks:
    """See storage.contract.WebhookInbox."""

    commits: Commits
    reads: Lane

    async def put(self, channel: str, event: str, raw: bytes, now_ms: int) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute(
                    "INSERT INTO webhooks (channel, event, raw, received_ms)"
                    " VALUES (?, ?, ?, ?) ON CONFLICT (channel, event) DO NOTHING",
                    (channel, event, raw, now_ms),
                ).rowcount
                == 1
            )

        return await self.commits.write(work)

    async def list_open(self, channel: str, entries_max: int) -> list[WebhookEntry]:
        return await self._list(
            "state = 'open' AND channel = ? ORDER BY id LIMIT ?", channel, entries_max
        )

    async def finish(self, entry: int, outcome: str) -> None:
        await self._execute(
            "UPDATE webhooks SET state = 'done', outcome = ?, raw = X'' WHERE id = ?",
            outcome,
            entry,
        )

    async def fail(self, entry: int, reason: str, give_up: bool) -> None:
        await self._execute(
            "UPDATE webhooks SET attempts = attempts + 1, outcome = ?, state = ?"
            " WHERE id = ? AND state = 'open'",
            reason,
            "dead" if give_up else "open",
            entry,
        )

    async def list_dead(self, entries_max: int) -> list[WebhookEntry]:
        return await self._list("state = 'dead' ORDER BY id DESC LIMIT ?", entries_max)

    async def forget(self, before_ms: int) -> int:
        return await self._execute(
            "DELETE FROM webhooks WHERE state = 'done' AND received_ms < ?", before_ms
        )

    async def _list(self, rest: str, *values: str | int) -> list[WebhookEntry]:
        def work(connection: sqlite3.Connection) -> list[WebhookEntry]:
            rows = connection.execute(
                f"SELECT {_WEBHOOK} FROM webhooks WHERE {rest}",  # noqa: S608
                values,
            ).fetchall()
            return [WebhookEntry(*row) for row in rows]

        return await self.reads.read(work)

    async def _execute(self, statement: str, *values: str | int) -> int:
        return await self.commits.write(
            lambda connection: connection.execute(statement, values).rowcount
        )


@dataclass(frozen=True, slots=True)
class SqliteAudit:
    """See storage.contract.Audit."""

    commits: Commits
    reads: Lane

    async def append(self, entry: AuditEntry) -> None:
        values = (entry.at_ms, entry.principal, entry.action, entry.target, entry.outcome,
                  msgspec.json.encode(entry.detail))  # fmt: skip

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO audit (at_ms, principal, action, target, outcome, detail)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

        await self.commits.write(work)

    async def list(self, entries_max: int, before_id: int | None = None) -> list[AuditEntry]:
        before = 2**62 if before_id is None else before_id

        def work(connection: sqlite3.Connection) -> list[AuditEntry]:
            rows = connection.execute(
                "SELECT at_ms, principal, action, target, outcome, detail, id FROM audit"
                " WHERE id < ? ORDER BY id DESC LIMIT ?",
                (before, entries_max),
            ).fetchall()
            return [
                AuditEntry(at_ms, principal, action, target, outcome, _decode_json(detail), id_)
                for at_ms, principal, action, target, outcome, detail, id_ in rows
            ]

        return await self.reads.read(work)


@dataclass(frozen=True, slots=True)
class SqliteCommands:
    """See storage.contract.Commands."""

    commits: Commits
    reads: Lane

    async def find(self, stage: str, key: str, now_ms: int) -> bytes | None:
        return await self.reads.read(lambda connection: _answer(connection, stage, key, now_ms))

    async def remember(self, stage: str, key: str, answer: bytes, now_ms: int) -> bytes:
        def work(connection: sqlite3.Connection) -> bytes:
            earlier = _answer(connection, stage, key, now_ms)
            if earlier is not None:
                return earlier
            connection.execute(
                "DELETE FROM commands WHERE (stage, key) IN (SELECT stage, key FROM commands"
                " WHERE created_ms <= ? ORDER BY created_ms LIMIT ?)",
                (now_ms - COMMAND_KEY_KEPT_S * 1000, _EXPIRED_AT_ONCE),
            )
            connection.execute(
                "INSERT OR REPLACE INTO commands (stage, key, answer, created_ms)"
                " VALUES (?, ?, ?, ?)",
                (stage, key, answer, now_ms),
            )
            return answer

        return await self.commits.write(work)


def _answer(connection: sqlite3.Connection, stage: str, key: str, now_ms: int) -> bytes | None:
    row = connection.execute(
        "SELECT answer FROM commands WHERE stage = ? AND key = ? AND created_ms > ?",
        (stage, key, now_ms - COMMAND_KEY_KEPT_S * 1000),
    ).fetchone()
    return None if row is None else bytes(row[0])
