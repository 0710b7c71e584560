"""On a sharded cluster: spread the collections by their shard keys, safe to repeat.

Ranged keys, never hashed ones: only then may a unique index begin with the key, and the log
rests on unique indexes.
"""

from collections.abc import Iterable, Mapping

from pymongo.errors import OperationFailure

from angarium.errors import SchemaMismatch
from angarium.storage.mongo.link import Document, Link

_ALREADY_INITIALIZED = 23  # Sharded before, by another key; by the same one it is no error.


def shard_commands(database: str, keys: Mapping[str, Iterable[str]]) -> list[Document]:
    """What the router is told, in order. Each collection has an index for its key."""
    commands: list[Document] = [{"enableSharding": database}]
    for name, fields in keys.items():
        key = {field: 1 for field in fields}
        commands.append({"shardCollection": f"{database}.{name}", "key": key})
    return commands


async def shard(link: Link, keys: Mapping[str, Iterable[str]]) -> bool:
    """Spread the collections; False where the server is no router and there is nothing to do.

    Raises SchemaMismatch when a collection is spread by another key, StoreUnwritable when the
    account may not do this, Unavailable.
    """
    admin = link.client.admin
    hello = await link.call(lambda: admin.command("hello"))
    if hello.get("msg") != "isdbgrid":
        return False
    for command in shard_commands(link.name, keys):
        await link.call(lambda command=command: _run(link, command))  # type: ignore[misc]
    return True


async def _run(link: Link, command: Document) -> None:
    try:
        await link.client.admin.command(command)
    except OperationFailure as error:
        if error.code != _ALREADY_INITIALIZED:
            raise
        name = str(command.get("shardCollection", "")).partition(".")[2]
        raise SchemaMismatch(
            f"the collection `{name}` is sharded by another key: reshard it, docs: scaling"
        ) from None
