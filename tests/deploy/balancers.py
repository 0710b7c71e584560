"""The load balancers of `deploy/`, started on the very files that are shipped there."""

import asyncio
import datetime as dt
import os
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from angarium.testing.cluster import Cluster
from angarium.testing.redis_server import quiet_port

DEPLOY = Path(__file__).parents[2] / "deploy"
START_WAIT_S = 10.0
NAMES = ("nginx", "haproxy")


def missing(program: str) -> str:
    """Why it cannot be started, as a sentence; empty when it can."""
    if find(program) is None:
        package = {"nginx": "nginx-light"}.get(program, program)
        return f"no {program}: install Debian's package {package}"
    return ""


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Balancer:
    """One of NAMES in front of the first two nodes of a cluster, with TLS on a port of its own.

    The nodes are those that the cluster has at `start`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.port = name, folder, quiet_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = make_certificate(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def http_url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"wss://localhost:{self.port}/ws"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    async def start(self, cluster: Cluster) -> None:
        """Start, and wait until it accepts."""
        addresses = {
            f"node-{number + 1}:{port}": f"127.0.0.1:{node.settings[name]}"
            for number, node in cluster.nodes.items()
            for port, name in ((8400, "port"), (8401, "websocket_port"))
        }
        # Nobody listens there: these nodes have no bridge.
        addresses["bridge:8400"] = "127.0.0.1:9"
        run = self._nginx if self.name == "nginx" else self._haproxy
        command, environment = run(addresses)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - brief
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        async with asyncio.timeout(START_WAIT_S):
            while not await self._accepts():
                assert self._process.poll() is None, self.log_text()
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def log_text(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def _nginx(self, addresses: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        (self.folder / "nginx.conf").symlink_to(DEPLOY / "nginx" / "nginx.conf")
        nodes = (DEPLOY / "nginx" / "nodes.conf").read_text()
        listen = (DEPLOY / "nginx" / "listen.conf").read_text()
        for name, address in addresses.items():
            assert f"server {name}" in nodes
            nodes = nodes.replace(f"server {name}", f"server {address}")
        secrets = str(self.folder)
        listen = listen.replace("8443", f"127.0.0.1:{self.port}")
        (self.folder / "nodes.conf").write_text(nodes)
        (self.folder / "listen.conf").write_text(listen.replace("/run/secrets", secrets))
        said = "daemon off; pid nginx.pid;" + (" user root;" if os.geteuid() == 0 else "")
        command = [
            find("nginx") or "", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"),
            "-e", "stderr", "-g", said,
        ]  # fmt: skip
        return command, dict(os.environ)

    def _haproxy(self, addresses: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        environment = {
            "ANGARIUM_LISTEN": f"127.0.0.1:{self.port}",
            "ANGARIUM_CERTIFICATE": str(self.folder / "tls.pem"),
            "ANGARIUM_NODE_1_HTTP": addresses["node-1:8400"],
            "ANGARIUM_NODE_1_WEBSOCKET": addresses["node-1:8401"],
            "ANGARIUM_NODE_2_HTTP": addresses["node-2:8400"],
            "ANGARIUM_NODE_2_WEBSOCKET": addresses["node-2:8401"],
            "ANGARIUM_BRIDGE": addresses["bridge:8400"],
        }
        configuration = DEPLOY / "haproxy" / "haproxy.cfg"
        command = [find("haproxy") or "", "-db", "-f", str(configuration)]
        return command, {**os.environ, **environment}


def make_certificate(folder: Path) -> Path:
    """A certificate for this machine, in the files that the balancers read; returns the one to
    trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "tls_certificate").write_bytes(public)
    (folder / "tls_key").write_bytes(private)
    (folder / "tls.pem").write_bytes(public + private)
    return folder / "tls_certificate"
