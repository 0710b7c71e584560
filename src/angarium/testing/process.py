"""A real `angarium serve` in a child process, for benchmarks and for tests that kill it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx2

from angarium.errors import NotFound, Unavailable

READY_WAIT_S = 30.0
STOP_WAIT_S = 60.0
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ServedNode:
    """One `angarium serve` on free ports with its data in `folder`.

    The same folder can be served again after a kill. `settings` become environment variables.
    `skew`: a file with the seconds that its wall clock is ahead; it may change at any time.
    `source`: a checkout of another version, whose program is run instead of this one.
    `command`: another one that serves, `dev` say; `services` are its arguments then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        services: str = "all",
        skew: Path | None = None,
        source: Path | None = None,
        command: str = "serve",
    ) -> None:
        self.source = source
        self.folder = folder
        self._program = ["angarium.testing.skewed", str(skew)] if skew else ["angarium"]
        self.services, self._command = services, command
        self.settings = {"port": "0", "websocket_port": "0", **(settings or {})}
        self.http_url = ""
        self.websocket_url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._log = folder.parent / f"{folder.name}.log"

    async def start(self, ready_wait_s: float = READY_WAIT_S) -> None:
        """Start and wait until the node says it is ready. Raises Unavailable."""
        announcement = self.folder / "node.json"
        announcement.unlink(missing_ok=True)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("ANGARIUM_")
        }
        environment |= {
            f"ANGARIUM_{key.upper()}": value for key, value in self.settings.items()
        }
        environment["ANGARIUM_DATA"] = str(self.folder)
        if self.source is not None:
            environment["PYTHONPATH"] = str(self.source / "src")
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self._program, self._command, *self.services.split(),
                env=environment, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        deadline = asyncio.get_running_loop().time() + ready_wait_s
        while not announcement.exists():
            if (
                self._process.returncode is not None
                or deadline < asyncio.get_running_loop().time()
            ):
                await self.kill()
                raise Unavailable(f"the node did not become ready: {self.log_text()[-2000:]}")
            await asyncio.sleep(0.02)
        found = json.loads(announcement.read_text())
        self.http_url, self.websocket_url = found["http_url"], found["websocket_url"]

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def cpu_s(self) -> float:
        """Processor seconds the node has used, user and system (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S

    def rss_bytes(self) -> int:
        """Memory the node has in RAM (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def metric(self, name: str) -> float:
        """One number of the node's metrics page, named without the product's prefix.

        Raises NotFound.
        """
        async with httpx2.AsyncClient(trust_env=False) as http:
            page = (await http.get(f"{self.http_url}/metrics")).text
        for line in page.splitlines():
            if line.startswith(f"angarium_{name} "):
                return float(line.rpartition(" ")[2])
        raise NotFound(f"the metrics page has no {name}")

    async def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        await self._end(signal.SIGKILL, 10.0)

    async def stop(self) -> int:
        """SIGTERM: drain, then exit. Returns the exit code."""
        return await self._end(signal.SIGTERM, STOP_WAIT_S)

    async def _end(self, how: signal.Signals, wait_s: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(how)
        try:
            return await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            process.kill()
            return await process.wait()

    async def __aenter__(self) -> "ServedNode":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
