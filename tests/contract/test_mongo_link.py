"""The connection to a MongoDB that is not there."""

import asyncio
import gc
import socket
import sys
import warnings
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.errors import Unavailable
from angarium.storage.mongo.link import Link


@pytest.mark.slow
def test_a_link_to_a_store_that_is_gone_leaves_no_socket_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as nobody:  # Bound, and nobody listens: connections are refused.
        nobody.bind(("127.0.0.1", 0))
        uri = f"mongodb://127.0.0.1:{nobody.getsockname()[1]}"
        left: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", left.append)

        async def open_and_close() -> None:
            link = Link(uri, "x", call_s=0.05)
            with pytest.raises(Unavailable):
                await link.find("meta", {})
            await link.close()

        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            for _ in range(8):
                asyncio.run(open_and_close())
                gc.collect()
        assert left == []
