"""What tests of several folders share."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

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
