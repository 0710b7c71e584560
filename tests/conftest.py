"""What tests of several folders share."""

import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from angarium.testing.mongo import COMMAND, MongoServer, find_server


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MONGODB_URI, else a server of the tests' own. Neither: skipped here, a failure in CI."""
    if "MONGODB_URI" in os.environ:
        yield os.environ["MONGODB_URI"]
        return
    if find_spec("pymongo") is None or find_server() is None:
        sentence = f"no MongoDB: set MONGODB_URI, or install pymongo and SecantusDB ({COMMAND})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    server = MongoServer(tmp_path_factory.mktemp("mongo"))
    yield server.uri
    server.close()


@pytest.fixture
def on_mongo(mongo_uri: str) -> Callable[[Any], Awaitable[Any]]:
    """Opens the MongoDB store over a database of the test's own, with nothing in it."""
    from angarium.storage.mongo.store import open_mongo

    database = f"t_{uuid.uuid4().hex}"

    async def open_it(clock: Any) -> Any:
        opened = await open_mongo(mongo_uri, clock, database=database)
        # Empty collections and not a new database: indexes take most of a second.
        for name in ("leases", "records", "turns", "deliveries", "webhooks"):
            await opened._link[name].delete_many({})
        return opened

    return open_it
