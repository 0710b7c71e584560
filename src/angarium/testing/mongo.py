"""A MongoDB-protocol server for tests: SecantusDB, started as a process of its own.

It is licensed under the GPL and therefore never imported. Without it, or another server named
by MONGODB_URI, tests of the cluster's store are skipped.
"""

import shutil
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

from angarium.errors import Unavailable

COMMAND = "secantusd-py"
_PORTS = range(20_011, 32_000, 7)  # Below the ports that outgoing connections take.
_START_S = 20.0
_STOP_S = 10.0


def find_server() -> str | None:
    """The server's command: beside this interpreter, else on the path."""
    beside = Path(sys.executable).parent / COMMAND
    return str(beside) if beside.exists() else shutil.which(COMMAND)


class MongoServer:
    """One running server over `folder`. Close it."""

    def __init__(self, folder: Path, *options: str, command: str | None = None) -> None:
        """Start it on a free port and wait until it answers. Raises Unavailable."""
        program = command or find_server()
        if program is None:
            raise Unavailable(f"`{COMMAND}` is not installed")
        self._folder, self._program, self._options = folder, program, options
        self.port = _free_port()
        self.start()

    @property
    def uri(self) -> str:
        """Without retryable writes: the server looks through all of them at each write."""
        return f"mongodb://127.0.0.1:{self.port}/?retryWrites=false"

    def start(self) -> None:
        """Start the process, again after `kill` or `close`. Raises Unavailable."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [
                    self._program, "--host", "127.0.0.1", "--port", str(self.port),
                    "--storage-path", str(self._folder / "data"), "--cache-size", "256M",
                    "--enable-test-commands", *self._options,
                ],
                stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        deadline_s = time.monotonic() + _START_S
        while not _answers(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.close()
                raise Unavailable("the test server did not start; see server.log")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it without warning, as a crash would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()


def _free_port() -> int:
    start: int = time.monotonic_ns() // 1000 % len(_PORTS)
    for port in chain(_PORTS[start:], _PORTS[:start]):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free port for the test server")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
