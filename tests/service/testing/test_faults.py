"""The proxy with faults: each fault does what it says, to both ends, until it is healed."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from angarium.testing.faults import FaultProxy

QUIET_S = 0.15  # Long enough for anything on loopback to arrive.
WAIT_S = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Upstream:
    """Answers each line with the same line; keeps what it was sent."""

    lines: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(line)
                await writer.drain()
            self.ends.append("end")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            self.ended.set()
            writer.close()


@dataclass
class Place:
    upstream: Upstream
    proxy: FaultProxy
    opened: list[Streams] = field(default_factory=list)

    async def connect(self) -> Streams:
        streams = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self.opened.append(streams)
        return streams


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[Place]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    found = Place(upstream, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]))
    async with found.proxy:
        try:
            yield found
        finally:
            for _, writer in found.opened:
                writer.transport.abort()
            server.close()
    await asyncio.sleep(0)


def run(scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with asyncio.timeout(WAIT_S), place() as found:
            await scenario(found)

    asyncio.run(inside())


async def ask(streams: Streams, line: bytes = b"hello\n") -> bytes:
    """The answer; raises ConnectionError, or TimeoutError when none comes."""
    reader, writer = streams
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), 5)


async def is_silent(streams: Streams, line: bytes = b"anybody\n") -> bool:
    reader, writer = streams
    writer.write(line)
    try:
        await asyncio.wait_for(reader.readline(), QUIET_S)
    except TimeoutError:
        return True
    return False


async def took_s(work: Awaitable[object]) -> float:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await work
    return loop.time() - started_s


def test_without_a_fault_bytes_and_their_end_pass_both_ways() -> None:
    async def scenario(found: Place) -> None:
        reader, writer = await found.connect()
        large = b"x" * 60_000 + b"\n"
        assert await ask((reader, writer), large) == large
        writer.write_eof()
        assert await reader.read() == b""
        assert found.upstream.ends == ["end"]

    run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["request_ms", "response_ms"])
def test_a_delay_is_added_to_each_way_by_itself(way: str) -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        assert await took_s(ask(streams)) < 0.1
        found.proxy.delay(**{way: 120})
        assert await took_s(ask(streams)) >= 0.12
        await found.proxy.heal()
        assert await took_s(ask(streams)) < 0.1

    run(scenario)


def test_a_delay_does_not_lower_the_rate() -> None:
    async def scenario(found: Place) -> None:
        reader, writer = await found.connect()
        found.proxy.delay(request_ms=100)
        for number in range(20):
            writer.write(b"%d\n" % number)
            await writer.drain()
            await asyncio.sleep(0.005)
        assert await took_s(reader.readuntil(b"19\n")) < 0.5  # One by one it were two seconds.

    run(scenario)


@pytest.mark.slow
def test_a_throttled_direction_lets_so_many_bytes_through() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        found.proxy.throttle(response_bytes_per_s=1000)
        assert await took_s(ask(streams, b"x" * 399 + b"\n")) >= 0.3
        await found.proxy.heal()
        assert await took_s(ask(streams, b"x" * 399 + b"\n")) < 0.2

    run(scenario)


@pytest.mark.slow
def test_a_throttle_of_one_byte_a_second_ends_as_soon_as_it_is_healed() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        found.proxy.throttle(response_bytes_per_s=1)
        assert await is_silent(streams, b"slow\n")
        await found.proxy.heal()
        assert await asyncio.wait_for(streams[0].readline(), 1.5) == b"slow\n"

    run(scenario)


def test_a_reset_reaches_both_ends_and_spares_new_connections() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        await ask(streams)
        found.proxy.reset()
        with pytest.raises(ConnectionResetError):
            await ask(streams)
        await found.upstream.ended.wait()
        assert found.upstream.ends == ["reset"]
        assert await ask(await found.connect()) == b"hello\n"

    run(scenario)


def test_new_connections_are_reset_too_when_told_so_until_healed() -> None:
    async def scenario(found: Place) -> None:
        found.proxy.reset(also_new=True)
        reader, _ = await found.connect()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await found.proxy.heal()
        assert await ask(await found.connect()) == b"hello\n"

    run(scenario)


@pytest.mark.slow
def test_a_black_hole_swallows_and_what_lost_bytes_is_reset_when_healed() -> None:
    async def scenario(found: Place) -> None:
        loser, keeper = await found.connect(), await found.connect()
        await ask(loser)
        await ask(keeper)
        found.proxy.black_hole()
        assert await is_silent(loser)
        newcomer = await found.connect()
        assert await is_silent(newcomer)
        await found.proxy.heal()
        for streams in (loser, newcomer):
            with pytest.raises(ConnectionResetError):
                await streams[0].readline()
        assert await ask(keeper, b"still here\n") == b"still here\n"
        assert b"anybody\n" not in found.upstream.lines

    run(scenario)


@pytest.mark.slow
def test_in_a_black_hole_neither_end_learns_that_the_other_is_gone() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        await ask(streams)
        found.proxy.black_hole()
        streams[1].transport.abort()
        await asyncio.sleep(QUIET_S)
        assert found.upstream.ends == []

    run(scenario)


@pytest.mark.slow
def test_a_stalled_connection_goes_on_where_it_was() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        found.proxy.stall()
        assert await is_silent(streams)
        newcomer = await found.connect()
        assert await is_silent(newcomer, b"new\n")
        await found.proxy.heal()
        assert await streams[0].readline() == b"anybody\n"
        assert await newcomer[0].readline() == b"new\n"

    run(scenario)


def test_refused_are_new_connections_only_and_the_port_comes_back() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        await ask(streams)
        await found.proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await found.connect()
        assert await ask(streams) == b"hello\n"
        await found.proxy.heal()
        assert await ask(await found.connect()) == b"hello\n"

    run(scenario)


def test_a_lost_response_belongs_to_a_request_that_arrived() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        found.proxy.lose_responses(b"insert", times=1)
        assert await ask(streams, b"find\n") == b"find\n"
        with pytest.raises(ConnectionResetError):
            await ask(streams, b"insert\n")
        assert found.upstream.lines == [b"find\n", b"insert\n"]
        assert found.proxy.responses_lost == 1
        assert await ask(await found.connect(), b"insert\n") == b"insert\n"

    run(scenario)


def test_what_is_falsified_is_found_across_packets_and_keeps_its_length() -> None:
    async def scenario(found: Place) -> None:
        reader, writer = streams = await found.connect()
        found.proxy.falsify(b"PUBLISH here", b"PUBLISH nowh")
        assert await ask(streams, b"no PUBLISH there\n") == b"no PUBLISH there\n"
        writer.write(b"a PUBLISH here, b PUBL")
        await asyncio.sleep(QUIET_S)
        writer.write(b"ISH here, c\n")
        assert await reader.readline() == b"a PUBLISH nowh, b PUBLISH nowh, c\n"
        assert found.proxy.swapped == 2
        found.proxy.falsify(b"a", b"b", share=0.0)
        assert await ask(streams, b"a\n") == b"a\n"
        await found.proxy.heal()
        assert await ask(streams, b"PUBLISH here\n") == b"PUBLISH here\n"

    run(scenario)


def test_an_end_that_does_not_read_is_felt_by_the_other_within_two_megabytes() -> None:
    async def scenario(found: Place) -> None:
        streams = await found.connect()
        await ask(streams)
        streams[0]._transport.pause_reading()  # type: ignore[attr-defined]
        writer = found.upstream.writers[0]
        # Else the kernel grows the buffer of this end, which is not the proxy's, to megabytes.
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        written = 0
        with contextlib.suppress(TimeoutError):
            while written < 16 << 20:
                writer.write(b"x" * 16_384)
                written += 16_384
                await asyncio.wait_for(writer.drain(), QUIET_S)
        assert written < 2 << 20

    run(scenario)


def test_an_upstream_that_is_gone_ends_the_connection() -> None:
    async def scenario(found: Place) -> None:
        proxy = FaultProxy("127.0.0.1", found.proxy.port)
        await found.proxy.refuse()
        async with proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(scenario)


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("ws://127.0.0.1:8401/ws", "ws://127.0.0.1:20555/ws"),
        ("redis://:secret@127.0.0.1:6379", "redis://:secret@127.0.0.1:20555/"),
        (
            "mongodb://127.0.0.1:27017/angarium?retryWrites=false",
            "mongodb://127.0.0.1:20555/angarium?retryWrites=false&directConnection=true",
        ),
        ("mongodb://10.0.0.1", "mongodb://127.0.0.1:20555/?directConnection=true"),
    ],
)
def test_a_url_leads_through_the_proxy(url: str, through: str) -> None:
    async def scenario() -> None:
        assert FaultProxy("127.0.0.1", 1, listen_port=20555).before(url) == through

    asyncio.run(scenario())
