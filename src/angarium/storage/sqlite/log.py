"""The message log over SQLite."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from angarium.clock import Clock
from angarium.errors import NotFound
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.model.conversation import Head
from angarium.model.message import AppendResult, NewMessage, StoredMessage
from angarium.storage.sqlite.appender import unpack_key
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane

_decode = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_LAST = 2**62  # Larger numbers do not fit the database; no log is that long.
_NOTHING = msgspec.msgpack.encode({})


@dataclass(frozen=True, slots=True)
class SqliteLog:
    """See storage.contract.MessageLog."""

    commits: Commits
    reads: Lane
    clock: Clock

    async def append(self, batch: Sequence[NewMessage]) -> list[AppendResult]:
        return await self.commits.append(batch)

    async def heads(
        self, conversations: Sequence[ConversationId]
    ) -> dict[ConversationId, Head]:
        names = json.dumps(list(conversations))

        def work(connection: sqlite3.Connection) -> dict[ConversationId, Head]:
            rows = connection.execute(
                "SELECT name, epoch, floor, (SELECT coalesce(max(seq), 0) FROM messages"
                " WHERE conversation = conversations.id) FROM conversations"
                " WHERE name IN (SELECT value FROM json_each(?))",
                (names,),
            ).fetchall()
            return {
                ConversationId(name): Head(epoch, sequence, floor)
                for name, epoch, floor, sequence in rows
            }

        return await self.reads.read(work)

    async def read(
        self,
        conversation: ConversationId,
        device: DeviceId,
        first: int,
        last: int,
        messages_max: int,
    ) -> list[StoredMessage]:
        def work(connection: sqlite3.Connection) -> list[StoredMessage]:
            rows = connection.execute(
                "SELECT c.epoch, m.seq, m.key, w.sender, w.device, m.cs, m.kind,"
                " m.accepted_ms, m.sealed FROM conversations AS c"
                " JOIN messages AS m ON m.conversation = c.id"
                " JOIN writers AS w ON w.id = m.writer"
                " WHERE c.name = ? AND m.seq BETWEEN ? AND ? ORDER BY m.seq LIMIT ?",
                (conversation, min(first, _LAST), min(last, _LAST), max(0, messages_max)),
            ).fetchall()
            return [_stored(conversation, device, row) for row in rows]

        return await self.reads.read(work)

    def learn(self, messages: Sequence[StoredMessage]) -> None:
        """Nothing to learn: one process, one store."""

    async def last_cs(self, conversation: ConversationId, device: DeviceId) -> int:
        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT (SELECT max(cs) FROM messages WHERE writer = w.id)"
                " FROM conversations AS c JOIN writers AS w ON w.conversation = c.id"
                " WHERE c.name = ? AND w.device = ?",
                (conversation, device),
            ).fetchone()
            return int(row[0] or 0) if row else 0

        return await self.reads.read(work)

    async def purge(self, conversation: ConversationId, up_to: int) -> int:
        now_ms = self.clock.now_ms()

        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT id, (SELECT coalesce(max(seq), 0) FROM messages"
                " WHERE conversation = conversations.id) FROM conversations WHERE name = ?",
                (conversation,),
            ).fetchone()
            if row is None:
                raise NotFound("no such conversation")
            ref, head = row
            connection.execute(
                "UPDATE conversations SET floor = max(floor, ?) WHERE id = ?",
                (min(up_to, head) + 1, ref),
            )
            return connection.execute(
                "UPDATE messages SET kind = 'void', sealed = ?, purged_ms = ?"
                " WHERE conversation = ? AND seq <= ? AND purged_ms = 0",
                (_NOTHING, max(1, now_ms), ref, min(up_to, head)),
            ).rowcount

        return await self.commits.write(work)


def _stored(
    conversation: ConversationId,
    device: DeviceId,
    row: tuple[int, int, bytes | str, UserId, DeviceId, int, str, int, bytes],
) -> StoredMessage:
    epoch, sequence, key, sender, author, cs, kind, accepted_ms, sealed = row
    ciphertext = _decode(sealed).get(device)
    return StoredMessage(
        conversation=conversation,
        epoch=epoch,
        sequence=sequence,
        key=unpack_key(key),
        sender=sender,
        device=author,
        cs=cs,
        kind=kind,
        accepted_ms=accepted_ms,
        to={} if ciphertext is None else {device: ciphertext},
    )
