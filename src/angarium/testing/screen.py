"""A command on a pseudo terminal: what it shows, as text, and a person who types."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import Mapping
from types import TracebackType

from angarium.errors import Unavailable

SHOWN_WAIT_S = 30.0
LINES, COLUMNS = 40, 100
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>()][0-9A-Za-z]?)")
_WHERE_IS_THE_CURSOR = b"\x1b[6n"


class Screen:
    """`angarium` with these arguments, in a child process on a terminal of its own.

    async with Screen("chat", environment=...) as screen:
        await screen.shows("connected")
        screen.types("hello")
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environment = {**environment, "TERM": "xterm", "PYTHONUNBUFFERED": "1"}
        self._process: asyncio.subprocess.Process | None = None
        self._master = -1
        self._raw = bytearray()
        self._more = asyncio.Event()

    @property
    def text(self) -> str:
        """All that was written so far, without control sequences."""
        return _ESCAPE.sub("", self._raw.decode(errors="replace")).replace("\r", "")

    async def __aenter__(self) -> "Screen":
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "angarium", *self._arguments,
            stdin=slave, stdout=slave, stderr=slave, env=self._environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        if self._master >= 0:
            self._stop_reading()

    def types(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._master, line.encode() + b"\r")

    async def shows(self, text: str, *, times: int = 1) -> None:
        """Wait until this has been written so often. Raises Unavailable."""
        try:
            async with asyncio.timeout(SHOWN_WAIT_S):
                while self.text.count(text) < times:
                    if self._master < 0:
                        raise TimeoutError  # Nothing more comes.
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise Unavailable(f"{text!r} was not shown in {self.text[-3000:]}") from None

    async def ended(self) -> int:
        """The exit code, once it has ended. Raises TimeoutError."""
        if self._process is None:
            raise Unavailable("it was not started")
        return await asyncio.wait_for(self._process.wait(), SHOWN_WAIT_S)

    def _read(self) -> None:
        try:
            piece = os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError:  # The child has ended.
            piece = b""
        if not piece:
            self._stop_reading()
            self._more.set()
            return
        self._raw += piece
        for _ in range(piece.count(_WHERE_IS_THE_CURSOR)):
            os.write(self._master, b"\x1b[1;1R")  # As a terminal does.
        self._more.set()

    def _stop_reading(self) -> None:
        master, self._master = self._master, -1
        if master >= 0:
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)
