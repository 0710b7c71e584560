"""Sealed records, turns and deliveries (written through the vault), and leases over SQLite."""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from angarium.errors import Conflict, Fenced, LeaseTaken
from angarium.storage.contract import (
    DropRecord,
    Fence,
    PutDelivery,
    PutRecord,
    PutTurn,
    Record,
    Write,
)
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane
from angarium.storage.sqlite.work import DELIVERY_COLUMNS, TURN_COLUMNS


def _upsert(table: str, columns: str, unique: str) -> tuple[str, str]:
    """The statements that insert only, and that insert or replace (the row id stays)."""
    names = columns.split(", ")
    insert = (
        f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
        f" ON CONFLICT ({unique}) DO"
    )
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    return f"{insert} NOTHING", f"{insert} UPDATE SET {changes}"


_TURN_NEW, _TURN_ANY = _upsert("turns", TURN_COLUMNS, "conversation, sequence")
_DELIVERY_NEW, _DELIVERY_ANY = _upsert("deliveries", DELIVERY_COLUMNS, "id")


@dataclass(frozen=True, slots=True)
class SqliteVault:
    """See storage.contract.Vault. Here a write is all or nothing."""

    commits: Commits
    reads: Lane
    fencing: bool = True

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        def work(connection: sqlite3.Connection) -> list[Record]:
            # A range, not LIKE: case matters, and no letter of a key is a wildcard. The upper
            # end lets the index stop early; the comparison of the prefix is what decides.
            rows = connection.execute(
                "SELECT key, rev, blob FROM records WHERE scope = ? AND key >= ?"
                " AND key <= ? AND substr(key, 1, ?) = ? ORDER BY key",
                (scope, prefix, f"{prefix}\U0010ffff", len(prefix), prefix),
            ).fetchall()
            return [Record(scope, key, rev, blob) for key, rev, blob in rows]

        return await self.reads.read(work)

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        def work(connection: sqlite3.Connection) -> None:
            if fence is not None and self.fencing:
                _check_fence(connection, fence)
            for write in writes:
                _apply(connection, write)

        await self.commits.write(work)


def _check_fence(connection: sqlite3.Connection, fence: Fence) -> None:
    row = connection.execute(
        "SELECT epoch FROM leases WHERE name = ?", (fence.lease,)
    ).fetchone()
    if row is None or row[0] != fence.epoch:
        raise Fenced("a newer owner holds the lease")


def _apply(connection: sqlite3.Connection, write: Write) -> None:
    match write:
        case PutRecord():
            _put_record(connection, write)
        case DropRecord(scope, key):
            connection.execute("DELETE FROM records WHERE scope = ? AND key = ?", (scope, key))
        case PutTurn(turn, only_new):
            connection.execute(_TURN_NEW if only_new else _TURN_ANY, astuple(turn))
        case PutDelivery(delivery, only_new):
            connection.execute(_DELIVERY_NEW if only_new else _DELIVERY_ANY, astuple(delivery))


def _put_record(connection: sqlite3.Connection, put: PutRecord) -> None:
    place = (put.scope, put.key)
    insert = "INSERT INTO records (scope, key, rev, blob) VALUES (?, ?, 1, ?)"
    if put.expect_rev is None:
        connection.execute(
            f"{insert} ON CONFLICT (scope, key) DO UPDATE SET rev = rev + 1,"
            " blob = excluded.blob",
            (*place, put.blob),
        )
        return
    if put.expect_rev == 0:
        changed = connection.execute(
            f"{insert} ON CONFLICT (scope, key) DO NOTHING", (*place, put.blob)
        ).rowcount
    else:
        changed = connection.execute(
            "UPDATE records SET rev = rev + 1, blob = ?"
            " WHERE scope = ? AND key = ? AND rev = ?",
            (put.blob, *place, put.expect_rev),
        ).rowcount
    if not changed:
        raise Conflict("another writer changed this record first")


@dataclass(frozen=True, slots=True)
class SqliteLeases:
    """See storage.contract.Leases. A free lease keeps its row, so that epochs only grow."""

    commits: Commits
    fencing: bool = True

    async def acquire(
        self, name: str, owner: str, ttl_s: float, now_ms: int, stale: str = ""
    ) -> Fence:
        until_ms = now_ms + round(ttl_s * 1000)

        def work(connection: sqlite3.Connection) -> Fence:
            row = connection.execute(
                "SELECT owner, epoch, until_ms FROM leases WHERE name = ?", (name,)
            ).fetchone()
            holder, epoch, held_until_ms = row or ("", 0, 0)
            renewal = f"{epoch}/{held_until_ms}"
            held = holder != "" and held_until_ms > now_ms and renewal != stale
            if held and holder != owner:
                raise LeaseTaken(renewal=renewal)
            epoch += 0 if held else 1
            connection.execute(
                "INSERT OR REPLACE INTO leases (name, owner, epoch, until_ms)"
                " VALUES (?, ?, ?, ?)",
                (name, owner, epoch, until_ms),
            )
            return Fence(name, epoch)

        return await self.commits.write(work)

    async def renew(self, fence: Fence, owner: str, ttl_s: float, now_ms: int) -> None:
        until_ms = now_ms + round(ttl_s * 1000)

        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE leases SET until_ms = ? WHERE name = ? AND owner = ? AND epoch = ?",
                (until_ms, fence.lease, owner, fence.epoch),
            ).rowcount
            if not changed and self.fencing:
                raise Fenced("another owner holds the lease")

        await self.commits.write(work)

    async def release(self, fence: Fence, owner: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE leases SET owner = '', until_ms = 0"
                " WHERE name = ? AND owner = ? AND epoch = ?",
                (fence.lease, owner, fence.epoch),
            )

        await self.commits.write(work)
