"""For tests of a MongoDB in trouble; above all a network that delivers a request long after its
sender gave it up."""

import asyncio
import contextlib
import gc
import warnings
from collections.abc import Coroutine
from typing import Any

from pymongo.asynchronous.uri_parser import parse_uri


async def as_single_server(uri: str) -> tuple[str, int] | None:
    """The place of a MongoDB that is one server; None when it is several."""
    places = (await parse_uri(uri, 27017))["nodelist"]
    return places[0] if len(places) == 1 and not uri.startswith("mongodb+srv") else None


def run_and_collect(scenario: Coroutine[Any, Any, None]) -> None:
    """A connection that the driver was opening when it was closed stays with the collector:
    here, where that is no failure of a later test."""
    asyncio.run(scenario)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class LatePost:
    """A TCP proxy before one MongoDB server. While `holding`, a request that holds the marker
    is kept, whoever sent it, also when the sender hangs up; `deliver` hands them all over."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place
        self.marker = b""
        self.caught = asyncio.Event()
        self._late = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answers: list[asyncio.Future[bytes]] = []

    async def __aenter__(self) -> "LatePost":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true&retryWrites=false"

    def hold(self, command: str) -> None:
        """Keep requests of this command from now on."""
        self.marker = b"\x02" + command.encode() + b"\x00"

    async def deliver(self) -> int:
        """Hand over what was kept, and wait for the server's answers; returns how many."""
        self.marker = b""
        self._late.set()
        answers = await asyncio.wait_for(asyncio.gather(*self._answers), 10)
        assert all(answers), "the server hung up instead of answering"
        return len(answers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream, server = await asyncio.open_connection(*self.place)
        back = asyncio.create_task(_pump(upstream, writer))
        try:
            while request := await _read_message(reader):
                if self.marker and self.marker in request:
                    self.caught.set()
                    back.cancel()
                    await asyncio.gather(back, return_exceptions=True)
                    answer = asyncio.get_running_loop().create_future()
                    self._answers.append(answer)
                    await self._late.wait()
                    server.write(request)
                    answer.set_result(await _read_message(upstream))
                    return
                server.write(request)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for each in (server, writer):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """One message of MongoDB's wire protocol; b"" at the end."""
    try:
        head = await reader.readexactly(4)
        return head + await reader.readexactly(int.from_bytes(head, "little") - 4)
    except (asyncio.IncompleteReadError, OSError):
        return b""
