"""The bus behind Sentinel, on a cluster and over TLS, with real servers."""

import asyncio
import datetime as dt
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from angarium.bus.redis_link import RedisLink, open_link
from angarium.bus.redis_registry import RedisRegistry
from angarium.bus.registry import Holder
from angarium.clock import SystemClock
from angarium.ids import ConversationId, DeviceId
from angarium.testing.redis_server import RedisServer, quiet_port

from .buses import ANN, Hearer, reaches, rung, served, until

PHONE = DeviceId("ANNPHONE")
SLOTS = 16384
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


async def asked(url: str, *command: str | int) -> object:
    link = open_link(url)
    try:
        return await link.client.execute_command(*command)
    finally:
        await link.close()


async def until_answered(url: str, pattern: str, *command: str) -> None:
    async with asyncio.timeout(30):
        while not re.search(pattern, repr(await asked(url, *command))):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@asynccontextmanager
async def cluster_of_two(folder: Path) -> AsyncIterator[list[RedisServer]]:
    ports = [quiet_port(), quiet_port()]
    options = [["--cluster-enabled", "yes", "--cluster-port", str(port)] for port in ports]
    async with (
        served(folder / "0", *options[0]) as one,
        served(folder / "1", *options[1]) as two,
    ):
        half = SLOTS // 2
        await asked(one.url, "CLUSTER ADDSLOTSRANGE", 0, half - 1)
        await asked(two.url, "CLUSTER ADDSLOTSRANGE", half, SLOTS - 1)
        await asked(one.url, "CLUSTER MEET", "127.0.0.1", two.port, ports[1])
        for server in (one, two):
            await until_answered(server.url, r"cluster_state\W+ok", "CLUSTER INFO")
        yield [one, two]


def test_a_cluster_carries_the_bus_and_the_registry(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster_of_two(tmp_path) as servers:
            url = f"redis+cluster://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}"
            async with Hearer(url) as one, Hearer(url) as two:
                await until(lambda: one.bus.hears and two.bus.hears)
                talks = [ConversationId(f"talk-{n}") for n in range(40)]
                said = [type(rung(1))(talk, 1, 1, (ANN,)) for talk in talks]
                one.bus.publish(list(said))
                await until(lambda: len(two.events) >= len(said))
                topics = [await asked(s.url, "PUBSUB SHARDCHANNELS") for s in servers]

                assert sorted(e.conversation for e in two.events) == sorted(talks)  # type: ignore[union-attr]
                assert all(topics), "each server carries a share"
            await registry_works(open_link(url))

    asyncio.run(work())


async def registry_works(link: RedisLink) -> None:
    registry = RedisRegistry(link, "a", SystemClock())
    await registry.renew()
    epoch = await registry.take(ANN, PHONE)
    assert await registry.find(ANN) == {PHONE: Holder("a", epoch)}
    await registry.release()
    await link.close()


def test_a_server_of_a_cluster_that_comes_back_is_heard_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster_of_two(tmp_path) as servers:
            url = f"redis+cluster://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}"
            async with Hearer(url) as one, Hearer(url) as two:
                await until(lambda: one.bus.hears and two.bus.hears)
                servers[1].kill()
                await until(lambda: not one.bus.hears and not two.bus.hears)
                await servers[1].start()
                await until(lambda: one.bus.hears and two.bus.hears)
                for n in range(8):
                    await reaches(one, two, n)

    asyncio.run(work())


@asynccontextmanager
async def sentinel_over(folder: Path, primary: RedisServer) -> AsyncIterator[int]:
    file = folder.with_suffix(".conf")
    file.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 5000\n"
    )
    sentinel = RedisServer(folder, file=file, options=["--sentinel"])
    await sentinel.start()
    try:
        yield sentinel.port
    finally:
        sentinel.kill()


def test_the_bus_follows_sentinel_to_the_new_primary(tmp_path: Path) -> None:
    async def work() -> None:
        async with served(tmp_path / "0") as first:
            replica = ("--replicaof", f"127.0.0.1 {first.port}")
            async with (
                served(tmp_path / "1", *replica) as second,
                sentinel_over(tmp_path / "2", first) as port,
            ):
                url = f"redis+sentinel://127.0.0.1:{port}/main"
                await until_answered(
                    f"redis://127.0.0.1:{port}", "slave", "SENTINEL REPLICAS", "main"
                )
                async with Hearer(url) as one, Hearer(url) as two:
                    await reaches(one, two, 1)
                    first.kill()
                    await until(lambda: not one.bus.hears and not two.bus.hears)
                    await until(lambda: one.bus.hears and two.bus.hears)
                    await reaches(one, two, 2)

                    assert await asked(second.url, "PUBSUB SHARDCHANNELS")

    asyncio.run(work())


@asynccontextmanager
async def tls_in_front(folder: Path, server: RedisServer) -> AsyncIterator[tuple[int, Path]]:
    """The port of a TLS terminator, and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "tls.pem"
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + public)
    trusted = folder / "trusted.pem"
    trusted.write_bytes(public)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while block := await reader.read(65536):
                writer.write(block)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(carry(reader, behind[1]), carry(behind[0], writer))

    front = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield front.sockets[0].getsockname()[1], trusted
    finally:
        front.close()


def test_tls_is_checked_and_carries_the_bus(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            served(tmp_path) as server,
            tls_in_front(tmp_path, server) as (port, trusted),
        ):
            url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={trusted}"
            async with Hearer(url) as one, Hearer(url) as two:
                await reaches(one, two, 1)
            async with Hearer(f"rediss://127.0.0.1:{port}") as stranger:
                assert not stranger.bus.hears

    asyncio.run(work())
