"""Public keys of users and devices over SQLite."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from angarium.errors import Forbidden
from angarium.ids import DeviceId, UserId
from angarium.model.device import Device, DeviceList, IdentityKeys
from angarium.storage.sqlite.commits import Commits
from angarium.storage.sqlite.lanes import Lane

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_DEVICE = "user, device, kind, keys, signed, created_ms"


@dataclass(frozen=True, slots=True)
class SqliteDirectory:
    """See storage.contract.Directory.

    A removed device leaves its name and owner behind, because an id never changes its user.
    """

    commits: Commits
    reads: Lane

    async def put_device(self, device: Device) -> int:
        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT user, keys FROM devices WHERE device = ?", (device.id,)
            ).fetchone()
            if row is not None:
                _check_same(device, row[0], row[1])
            connection.execute(
                "INSERT INTO devices (user, device, kind, keys, signed, created_ms)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET"
                " kind = excluded.kind, keys = excluded.keys, signed = excluded.signed,"
                " created_ms = excluded.created_ms",
                (device.user, device.id, device.kind, _encode(device.keys), device.signed,
                 device.created_ms),
            )  # fmt: skip
            return _next_version(connection, device.user)

        return await self.commits.write(work)

    async def put_identity(self, identity: IdentityKeys) -> int:
        def work(connection: sqlite3.Connection) -> int:
            version = _next_version(connection, identity.user)
            connection.execute(
                "UPDATE device_lists SET master = ?, self_signing = ? WHERE user = ?",
                (_encode(identity.master), _encode(identity.self_signing), identity.user),
            )
            return version

        return await self.commits.write(work)

    async def find_device(self, device: DeviceId) -> Device | None:
        def work(connection: sqlite3.Connection) -> Device | None:
            row = connection.execute(
                f"SELECT {_DEVICE} FROM devices"  # noqa: S608
                " WHERE device = ? AND keys IS NOT NULL",
                (device,),
            ).fetchone()
            return None if row is None else _device(row)

        return await self.reads.read(work)

    async def lists(self, users: Sequence[UserId]) -> dict[UserId, DeviceList]:
        names = json.dumps(list(users))

        def work(connection: sqlite3.Connection) -> dict[UserId, DeviceList]:
            devices: dict[str, list[Device]] = {}
            for row in connection.execute(
                f"SELECT {_DEVICE} FROM devices WHERE keys IS NOT NULL"  # noqa: S608
                " AND user IN (SELECT value FROM json_each(?)) ORDER BY id",
                (names,),
            ):
                devices.setdefault(row[0], []).append(_device(row))
            rows = connection.execute(
                "SELECT user, version, master, self_signing FROM device_lists"
                " WHERE user IN (SELECT value FROM json_each(?))",
                (names,),
            ).fetchall()
            return {
                user: DeviceList(
                    user,
                    version,
                    None
                    if master is None
                    else IdentityKeys(user, _decode(master), _decode(self_signing)),
                    tuple(devices.get(user, ())),
                )
                for user, version, master, self_signing in rows
            }

        # One transaction: a version must not be paired with the devices of another.
        return await self.reads.read(lambda connection: _in_snapshot(connection, work))

    async def remove_device(self, user: UserId, device: DeviceId) -> int:
        def work(connection: sqlite3.Connection) -> int:
            removed = connection.execute(
                "UPDATE devices SET keys = NULL, signed = 0"
                " WHERE device = ? AND user = ? AND keys IS NOT NULL",
                (device, user),
            ).rowcount
            if not removed:
                return _version(connection, user)
            connection.execute("DELETE FROM one_time_keys WHERE device = ?", (device,))
            connection.execute("DELETE FROM fallback_keys WHERE device = ?", (device,))
            return _next_version(connection, user)

        return await self.commits.write(work)

    async def put_one_time_keys(
        self, device: DeviceId, keys: Mapping[str, dict[str, Any]]
    ) -> int:
        def work(connection: sqlite3.Connection) -> int:
            for key_id, key in keys.items():
                connection.execute(
                    "INSERT INTO one_time_keys (device, key_id, key) VALUES (?, ?, ?)"
                    " ON CONFLICT (device, key_id) DO NOTHING",
                    (device, key_id, _encode(key)),
                )
            return _count(connection, device)

        return await self.commits.write(work)

    async def put_fallback_key(
        self, device: DeviceId, key_id: str, key: dict[str, Any]
    ) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO fallback_keys (device, key_id, key) VALUES (?, ?, ?)",
                (device, key_id, _encode(key)),
            )

        await self.commits.write(work)

    async def count_one_time_keys(self, device: DeviceId) -> int:
        return await self.reads.read(lambda connection: _count(connection, device))

    async def take_key(
        self, device: DeviceId, fallback_only: bool = False
    ) -> tuple[str, dict[str, Any]] | None:
        def work(connection: sqlite3.Connection) -> tuple[str, dict[str, Any]] | None:
            row = None
            if not fallback_only:
                row = connection.execute(
                    "DELETE FROM one_time_keys WHERE id = (SELECT id FROM one_time_keys"
                    " WHERE device = ? ORDER BY id LIMIT 1) RETURNING key_id, key",
                    (device,),
                ).fetchone()
            if row is None:
                row = connection.execute(
                    "SELECT key_id, key FROM fallback_keys WHERE device = ?", (device,)
                ).fetchone()
            return None if row is None else (row[0], _decode(row[1]))

        return await self.commits.write(work)


def _check_same(device: Device, owner: str, packed: bytes | None) -> None:
    if owner != device.user:
        raise Forbidden("this device id belongs to another user")
    if packed is not None and _decode(packed).get("keys") != device.keys.get("keys"):
        raise Forbidden("the identity keys of a device never change; use a new device id")


def _device(row: tuple[UserId, DeviceId, Any, bytes, int, int]) -> Device:
    user, device, kind, keys, signed, created_ms = row
    return Device(user, device, kind, _decode(keys), bool(signed), created_ms)


def _in_snapshot(connection: sqlite3.Connection, work: Any) -> Any:
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        connection.execute("COMMIT")


def _count(connection: sqlite3.Connection, device: str) -> int:
    row = connection.execute("SELECT count(*) FROM one_time_keys WHERE device = ?", (device,))
    return int(row.fetchone()[0])


def _version(connection: sqlite3.Connection, user: str) -> int:
    row = connection.execute(
        "SELECT version FROM device_lists WHERE user = ?", (user,)
    ).fetchone()
    return int(row[0]) if row else 0


def _next_version(connection: sqlite3.Connection, user: str) -> int:
    row = connection.execute(
        "INSERT INTO device_lists (user, version) VALUES (?, 1) ON CONFLICT (user)"
        " DO UPDATE SET version = version + 1 RETURNING version",
        (user,),
    ).fetchone()
    return int(row[0])
