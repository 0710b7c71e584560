"""Joins the members of the replica set and makes Angarium's user. Safe to repeat."""

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

ALREADY_INITIALIZED, USER_EXISTS = 23, 51003
WAIT_S = 120.0
PAUSE_S = 1.0


def main(store_url: str, root_password: str) -> None:
    """Raises TimeoutError when the set has no primary in time, OperationFailure."""
    parts = urlsplit(store_url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    name = dict(part.split("=", 1) for part in parts.query.split("&"))["replicaSet"]
    root: dict[str, Any] = (
        {"username": "root", "password": root_password} if root_password else {}
    )
    with MongoClient(hosts[0], directConnection=True, **root) as first:
        join(first, name, hosts)
    with MongoClient(hosts, replicaSet=name, **root) as members:
        wait_primary(members)
        if parts.username and parts.password:
            make_user(members[parts.path.strip("/")], parts.username, parts.password)


def join(first: MongoClient[Any], name: str, hosts: list[str]) -> None:
    full = [host if ":" in host else f"{host}:27017" for host in hosts]
    members = [{"_id": number, "host": host} for number, host in enumerate(full)]
    try:
        first.admin.command("replSetInitiate", {"_id": name, "members": members})
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:
            raise


def wait_primary(members: MongoClient[Any]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            if members.admin.command("hello").get("isWritablePrimary"):
                return
        except PyMongoError:
            pass  # The election goes on.
        if time.monotonic() > deadline_s:
            raise TimeoutError("the replica set has no primary")
        time.sleep(PAUSE_S)


def make_user(database: Any, user: str, password: str) -> None:
    """Its password is brought up to date when there is such a user."""
    roles = [{"role": "readWrite", "db": database.name}]
    try:
        database.command("createUser", user, pwd=password, roles=roles)
    except OperationFailure as error:
        if error.code != USER_EXISTS:
            raise
        database.command("updateUser", user, pwd=password, roles=roles)


if __name__ == "__main__":
    secrets = Path("/run/secrets")
    try:
        main(
            (secrets / "angarium_store_url").read_text().strip(),
            (secrets / "mongo_root_password").read_text().strip(),
        )
    except (PyMongoError, TimeoutError, OSError) as error:
        sys.exit(f"the replica set is not ready: {error}")
