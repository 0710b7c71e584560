"""The HTTP server in the running loop, on a real socket."""

import asyncio
import os
import signal
import socket
from typing import Any

import httpx2
import pytest

from angarium.errors import Misconfigured, PortInUse
from angarium.server.api import make_app
from angarium.server.health import Health
from angarium.server.http import HttpServer
from angarium.telemetry.metrics import Metrics


def app() -> Any:
    return make_app(version="0", health=Health({}), metrics=Metrics())


async def get(port: int, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


def test_it_serves_on_a_free_port_until_stopped() -> None:
    async def scenario() -> None:
        server = HttpServer(app(), "127.0.0.1", 0)
        await server.start()
        answer = await get(server.port, "/livez")
        await server.stop()

        assert answer.json() == {"status": "alive"}
        assert "server" not in answer.headers
        with pytest.raises(httpx2.ConnectError):
            await get(server.port, "/livez")

    asyncio.run(scenario())


def test_a_taken_port_is_one_clear_sentence() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is taken"):
                await HttpServer(app(), "127.0.0.1", port).start()

    asyncio.run(scenario())


def test_an_address_that_is_not_ours_is_misconfigured() -> None:
    async def scenario() -> None:
        with pytest.raises(Misconfigured):
            await HttpServer(app(), "192.0.2.1", 0).start()

    asyncio.run(scenario())


def test_a_request_under_way_is_answered_before_the_server_stops() -> None:
    async def scenario() -> None:
        entered, go = asyncio.Event(), asyncio.Event()
        served = app()

        async def slow() -> dict[str, str]:
            entered.set()
            await go.wait()
            return {"done": "yes"}

        served.add_api_route("/slow", slow)
        server = HttpServer(served, "127.0.0.1", 0)
        await server.start()
        async with asyncio.TaskGroup() as group:
            request = group.create_task(get(server.port, "/slow"))
            await entered.wait()
            stopping = group.create_task(server.stop())
            await asyncio.sleep(0)
            go.set()

        assert request.result().json() == {"done": "yes"}
        assert stopping.done()

    asyncio.run(scenario())


def test_signals_stay_with_the_node() -> None:
    async def scenario() -> None:
        caught = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, caught.set)
        server = HttpServer(app(), "127.0.0.1", 0)
        await server.start()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(caught.wait(), 5)
        answer = await get(server.port, "/livez")
        await server.stop()
        loop.remove_signal_handler(signal.SIGTERM)

        assert answer.status_code == 200

    asyncio.run(scenario())
