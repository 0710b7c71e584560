"""A small model on this machine: `local:PATH.gguf`, served on loopback by a child process."""

import asyncio
import secrets
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx2
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from angarium.errors import Misconfigured, Unavailable
from angarium.limits import LOCAL_MODEL_START_S, LOCAL_MODEL_STOP_S, LOCAL_MODEL_TOKENS_MAX

PREFIX = "local:"
_SERVER = "angarium.agents.llm.local_server"


def is_local(place: str) -> bool:
    return place.startswith(PREFIX)


class LocalServer:
    """The child process of one model file; started at first use, ended by `close`."""

    def __init__(self, place: str) -> None:
        self._path = Path(place.removeprefix(PREFIX)).expanduser()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def model(self, client: httpx2.AsyncClient) -> Model:
        """Start it. Raises Misconfigured without the file or the package, Unavailable when it
        does not start in time."""
        if not self._path.is_file():
            raise Misconfigured(
                f"model file {str(self._path)!r} does not exist; `angarium model` gets one"
            )
        if find_spec("xllamacpp") is None:
            raise Misconfigured(
                "local models need one more package: install it with"
                " `pip install 'angarium[local]'`"
            )
        await self.close()
        key = secrets.token_urlsafe(24)
        try:
            async with asyncio.timeout(LOCAL_MODEL_START_S):
                address = await self._start(key)
        except TimeoutError:
            await self.close()
            raise Unavailable(f"the model {self._path.name} did not start in time") from None
        except BaseException:
            await self.close()
            raise
        provider = OpenAIProvider(base_url=f"{address}/v1", api_key=key, http_client=client)
        settings = ModelSettings(max_tokens=LOCAL_MODEL_TOKENS_MAX, temperature=0.0)
        return OpenAIChatModel(self._path.stem, provider=provider, settings=settings)

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), LOCAL_MODEL_STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _start(self, key: str) -> str:
        """Its address, once it serves. Raises Misconfigured when it ends instead."""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _SERVER, str(self._path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        if process.stdin is None or process.stdout is None:
            raise Unavailable("the model's process has no pipes")
        # By its input: a command line can be read by everybody on the machine.
        process.stdin.write(f"{key}\n{self._path.stem}\n".encode())
        address = (await process.stdout.readline()).decode().strip()
        if not address.startswith("http://127.0.0.1:"):
            raise Misconfigured(
                f"the model {self._path.name} does not start; check that it is a GGUF file"
            )
        return address
