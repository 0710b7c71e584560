"""The balancer of tests leads each connection to one of those that may be chosen now."""

import asyncio

import pytest

from angarium.testing.balancer import Balancer


def test_connections_go_to_all_that_are_ready_and_to_nobody_else() -> None:
    async def scenario() -> None:
        ready: list[int] = []
        served: list[int] = []

        async def serve() -> int:
            async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                served.append(port)
                writer.write(b"hello")
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            servers.append(server)
            port = int(server.sockets[0].getsockname()[1])
            return port

        servers: list[asyncio.Server] = []
        first, second = await serve(), await serve()
        balancer = Balancer(lambda: ready)
        await balancer.start()

        async def ask() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
            try:
                return await reader.read()
            finally:
                writer.close()

        try:
            with pytest.raises(ConnectionResetError):
                await ask()
            ready[:] = [first, second]
            assert {await ask() for _ in range(40)} == {b"hello"}
            assert set(served) == {first, second}
            ready[:], served[:] = [second], []
            await ask()
            assert served == [second]
        finally:
            await balancer.close()
            for server in servers:
                server.close()
                await server.wait_closed()

    asyncio.run(scenario())
