"""The embedded store's tables, as numbered migrations that only ever grow at the end.

A store is opened only when its version is exactly ours: an older one is migrated by the
operator's command after a backup, never silently at start.
"""

import sqlite3
from collections.abc import Sequence

from angarium.errors import SchemaMismatch, UnfinishedCopy

_FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL,
    floor INTEGER NOT NULL DEFAULT 1, created_ms INTEGER NOT NULL);
CREATE TABLE participants (
    id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, user TEXT NOT NULL,
    role TEXT NOT NULL, UNIQUE (conversation, user));
CREATE INDEX participants_by_user ON participants (user, conversation);
CREATE TABLE writers (
    id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, device TEXT NOT NULL,
    sender TEXT NOT NULL, UNIQUE (conversation, device));
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, seq INTEGER NOT NULL,
    writer INTEGER NOT NULL, key NOT NULL, cs INTEGER NOT NULL, kind TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL, digest BLOB NOT NULL, sealed BLOB NOT NULL,
    purged_ms INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX messages_by_sequence ON messages (conversation, seq);
CREATE UNIQUE INDEX messages_by_key ON messages (writer, key);
CREATE UNIQUE INDEX messages_by_counter ON messages (writer, cs);
CREATE TABLE receipts (
    conversation INTEGER NOT NULL, user TEXT NOT NULL, kind TEXT NOT NULL,
    seq INTEGER NOT NULL, PRIMARY KEY (conversation, user, kind)) WITHOUT ROWID;
CREATE TABLE device_lists (
    user TEXT PRIMARY KEY, version INTEGER NOT NULL, master BLOB, self_signing BLOB)
    WITHOUT ROWID;
CREATE TABLE devices (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL UNIQUE, user TEXT NOT NULL,
    kind TEXT NOT NULL, keys BLOB, signed INTEGER NOT NULL, created_ms INTEGER NOT NULL);
CREATE INDEX devices_by_user ON devices (user);
CREATE TABLE one_time_keys (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, key_id TEXT NOT NULL, key BLOB NOT NULL,
    UNIQUE (device, key_id));
CREATE TABLE fallback_keys (
    device TEXT PRIMARY KEY, key_id TEXT NOT NULL, key BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY, scope TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL,
    blob BLOB NOT NULL, UNIQUE (scope, key));
CREATE TABLE turns (
    id INTEGER PRIMARY KEY, conversation TEXT NOT NULL, sequence INTEGER NOT NULL,
    owner TEXT NOT NULL, state TEXT NOT NULL, body BLOB NOT NULL, agent TEXT NOT NULL,
    attempts INTEGER NOT NULL, reason TEXT NOT NULL, progress BLOB NOT NULL,
    reply BLOB NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
    UNIQUE (conversation, sequence));
CREATE INDEX turns_open ON turns (owner, conversation, sequence)
    WHERE state IN ('offered', 'running', 'waiting');
CREATE TABLE deliveries (
    pk INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, channel TEXT NOT NULL,
    contact TEXT NOT NULL, ord INTEGER NOT NULL, state TEXT NOT NULL, body BLOB NOT NULL,
    attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    provider_id TEXT NOT NULL, reason TEXT NOT NULL, updated_ms INTEGER NOT NULL);
CREATE INDEX deliveries_open ON deliveries (channel, contact, ord)
    WHERE state IN ('pending', 'sending', 'unknown');
CREATE INDEX deliveries_by_provider ON deliveries (channel, provider_id)
    WHERE provider_id <> '';
CREATE INDEX deliveries_by_contact ON deliveries (contact, ord);
CREATE TABLE leases (
    name TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL,
    until_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE webhooks (
    id INTEGER PRIMARY KEY, channel TEXT NOT NULL, event TEXT NOT NULL, raw BLOB NOT NULL,
    received_ms INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'open', outcome TEXT NOT NULL DEFAULT '',
    UNIQUE (channel, event));
CREATE INDEX webhooks_by_state ON webhooks (state, channel, id);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, principal TEXT NOT NULL,
    action TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL, detail BLOB NOT NULL);
CREATE TABLE commands (
    stage TEXT NOT NULL, key TEXT NOT NULL, answer BLOB NOT NULL,
    created_ms INTEGER NOT NULL, PRIMARY KEY (stage, key)) WITHOUT ROWID;
CREATE INDEX commands_by_age ON commands (created_ms);
CREATE TABLE blobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, conversation TEXT NOT NULL,
    size INTEGER NOT NULL, chunks INTEGER NOT NULL, created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX blobs_by_expiry ON blobs (expires_ms);
CREATE TABLE blob_chunks (
    blob TEXT NOT NULL, position INTEGER NOT NULL, size INTEGER NOT NULL,
    digest TEXT NOT NULL, PRIMARY KEY (blob, position)) WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)


def version_of(connection: sqlite3.Connection) -> int:
    """The store's schema version; 0 when it has no table yet."""
    found = connection.execute(
        "SELECT count(*), sum(name = 'schema_versions') FROM sqlite_master WHERE type = 'table'"
    ).fetchone()
    if not found[0]:
        return 0
    if not found[1]:
        raise SchemaMismatch("this file is not an Angarium store; choose another data folder")
    newest = connection.execute("SELECT max(version) FROM schema_versions").fetchone()[0]
    return int(newest or 0)


def check_version(connection: sqlite3.Connection, ours: int = len(MIGRATIONS)) -> None:
    """Raises SchemaMismatch, saying what to do, unless the store has exactly our version."""
    version = version_of(connection)
    if version < ours:
        raise SchemaMismatch(
            f"the store has schema {version}, this program needs {ours}: "
            "run `angarium db migrate`"
        )
    if version > ours:
        raise SchemaMismatch(
            f"the store has schema {version}, this program knows {ours}: "
            "install the newer Angarium"
        )


def unfinished(connection: sqlite3.Connection) -> str | None:
    """How far a copy into this store is; None when none is under way.

    Its table is there only meanwhile, so it is no part of the schema.
    """
    there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'copying'").fetchone()
    if there is None:
        return None
    return str(connection.execute("SELECT progress FROM copying").fetchone()[0])


def demand_whole(connection: sqlite3.Connection) -> None:
    """Raises UnfinishedCopy when a copy into this store has begun and is not done."""
    if unfinished(connection) is not None:
        raise UnfinishedCopy(
            "the store is a copy that is not done: run the same `angarium db copy` again, "
            "or with `--restart` to begin anew"
        )


def upgrade(
    connection: sqlite3.Connection, now_ms: int, migrations: Sequence[str] = MIGRATIONS
) -> tuple[int, int]:
    """Apply what is missing in one transaction; returns the versions before and after.

    Raises SchemaMismatch when the store is newer than `migrations`.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        before = version_of(connection)
        if before > len(migrations):
            check_version(connection, len(migrations))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_versions ("
            "version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)"
        )
        for version, script in enumerate(migrations[before:], before + 1):
            for statement in script.split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute("INSERT INTO schema_versions VALUES (?, ?)", (version, now_ms))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return before, max(before, len(migrations))
