"""Conversations, their participants, and receipts over SQLite."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from angarium.errors import NotFound
from angarium.ids import ConversationId, UserId
from angarium.model.conversation import Conversation, Participant
from angarium.storage.contract import ReceiptKind
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane

_ADD = (
    "INSERT INTO participants (conversation, user, role) VALUES (?, ?, ?)"
    " ON CONFLICT (conversation, user) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class SqliteConversations:
    """See storage.contract.Conversations."""

    commits: Commits
    reads: Lane

    async def create(
        self, conversation: ConversationId, participants: Sequence[Participant], now_ms: int
    ) -> Conversation:
        def work(connection: sqlite3.Connection) -> Conversation:
            existing = _find(connection, conversation)
            if existing is not None:
                return existing
            # After a restore new conversations begin in its epoch: their id may have a past.
            ref = connection.execute(
                "INSERT INTO conversations (name, epoch, created_ms) VALUES (?,"
                " coalesce((SELECT value FROM meta WHERE name = 'epoch'), 1), ?) RETURNING id",
                (conversation, now_ms),
            ).fetchone()[0]
            for participant in participants:
                connection.execute(_ADD, (ref, participant.user, participant.role))
            return _get(connection, conversation)

        return await self.commits.write(work)

    async def find(self, conversation: ConversationId) -> Conversation | None:
        return await self.reads.read(lambda connection: _find(connection, conversation))

    async def find_between(self, users: Sequence[UserId]) -> Conversation | None:
        names = sorted(set(users))

        def work(connection: sqlite3.Connection) -> Conversation | None:
            row = connection.execute(
                "SELECT c.name FROM participants AS p JOIN conversations AS c"
                " ON c.id = p.conversation"
                " WHERE p.user IN (SELECT value FROM json_each(:users))"
                " GROUP BY c.id HAVING count(*) = :count AND (SELECT count(*)"
                " FROM participants WHERE conversation = c.id) = :count"
                " ORDER BY c.created_ms, c.id LIMIT 1",
                {"users": json.dumps(names), "count": len(names)},
            ).fetchone()
            return None if row is None else _find(connection, row[0])

        return await self.reads.read(work)

    async def list_of(self, user: UserId) -> list[Conversation]:
        return (await self.lists_of([user]))[user]

    async def lists_of(self, users: Collection[UserId]) -> dict[UserId, list[Conversation]]:
        def work(connection: sqlite3.Connection) -> list[Conversation]:
            return _load(
                connection,
                "c.id IN (SELECT conversation FROM participants"
                " WHERE user IN (SELECT value FROM json_each(?)))",
                json.dumps(list(users)),
            )

        lists: dict[UserId, list[Conversation]] = {user: [] for user in users}
        for conversation in await self.reads.read(work):
            for participant in conversation.participants:
                if participant.user in lists:
                    lists[participant.user].append(conversation)
        return lists

    async def add(self, conversation: ConversationId, participant: Participant) -> Conversation:
        def work(connection: sqlite3.Connection) -> Conversation:
            _get(connection, conversation)
            connection.execute(
                "INSERT INTO participants (conversation, user, role)"
                " SELECT id, ?, ? FROM conversations WHERE name = ?"
                " ON CONFLICT (conversation, user) DO NOTHING",
                (participant.user, participant.role, conversation),
            )
            return _get(connection, conversation)

        return await self.commits.write(work)

    async def remove(self, conversation: ConversationId, user: UserId) -> Conversation:
        def work(connection: sqlite3.Connection) -> Conversation:
            _get(connection, conversation)
            connection.execute(
                "DELETE FROM participants WHERE user = ? AND conversation ="
                " (SELECT id FROM conversations WHERE name = ?)",
                (user, conversation),
            )
            return _get(connection, conversation)

        return await self.commits.write(work)


def _load(connection: sqlite3.Connection, where: str, value: str) -> list[Conversation]:
    """Conversations with their participants, oldest first; `where` is a constant of ours."""
    found: dict[str, tuple[int, int, list[Participant]]] = {}
    for name, epoch, created_ms, user, role in connection.execute(
        "SELECT c.name, c.epoch, c.created_ms, p.user, p.role FROM conversations AS c"  # noqa: S608
        " LEFT JOIN participants AS p ON p.conversation = c.id"
        f" WHERE {where} ORDER BY c.created_ms, c.id, p.id",
        (value,),
    ):
        entry = found.setdefault(name, (epoch, created_ms, []))
        if user is not None:
            entry[2].append(Participant(user, role))
    return [
        Conversation(ConversationId(name), epoch, tuple(participants), created_ms)
        for name, (epoch, created_ms, participants) in found.items()
    ]


def _find(connection: sqlite3.Connection, name: str) -> Conversation | None:
    found = _load(connection, "c.name = ?", name)
    return found[0] if found else None


def _get(connection: sqlite3.Connection, name: str) -> Conversation:
    found = _find(connection, name)
    if found is None:
        raise NotFound("no such conversation")
    return found


@dataclass(frozen=True, slots=True)
class SqliteReceipts:
    """See storage.contract.Receipts. Receipts of unknown conversations are dropped."""

    commits: Commits
    reads: Lane

    async def fold(
        self, receipts: Sequence[tuple[ConversationId, UserId, ReceiptKind, int]]
    ) -> None:
        if not receipts:
            return
        rows = json.dumps(list(receipts))

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO receipts (conversation, user, kind, seq)"
                " SELECT c.id, r.value ->> 1, r.value ->> 2, r.value ->> 3"
                " FROM json_each(?) AS r JOIN conversations AS c ON c.name = r.value ->> 0"
                " WHERE true ON CONFLICT (conversation, user, kind)"
                " DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq",
                (rows,),
            )

        await self.commits.write(work)

    async def list_of(
        self, conversation: ConversationId
    ) -> dict[tuple[UserId, ReceiptKind], int]:
        def work(connection: sqlite3.Connection) -> dict[tuple[UserId, ReceiptKind], int]:
            rows = connection.execute(
                "SELECT r.user, r.kind, r.seq FROM conversations AS c"
                " JOIN receipts AS r ON r.conversation = c.id WHERE c.name = ?",
                (conversation,),
            ).fetchall()
            return {(user, kind): sequence for user, kind, sequence in rows}

        return await self.reads.read(work)
