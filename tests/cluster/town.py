"""A cluster as people see it: one address, an agent that echoes, phones, clients that write."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from angarium.sdk.client import Client, Conversation
from angarium.sdk.contract import Delivered
from angarium.testing.balancer import Balancer
from angarium.testing.cluster import Cluster
from angarium.testing.phone import PhoneSimulator
from angarium.testing.redis_server import quiet_port

ACCOUNT, AUTH_TOKEN, OUR_NUMBER = "AC" + "5" * 32, "5" * 32, "whatsapp:+15550006060"
ANSWERED_S = 60.0
SAMPLE_S = 0.01
PAUSE_S = 0.4
ECHO = """
from angarium import Agent

echo = Agent("echo", "Says it back", on_busy="enqueue")  # One answer for each message.

@echo.on_turn
async def answer(turn):
    return "echo " + turn.text
"""


@dataclass
class Town:
    """Everything in it lives as long as the block of `town`."""

    nodes: Cluster
    url: str
    phones: PhoneSimulator
    folder: Path
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def person(self, name: str) -> "Person":
        """Somebody with a client of the SDK, who knows the agent."""
        user = f"@{name}:angarium"
        client = Client(
            self.url, user=user, token=self.nodes.token(user), folder=self.folder / name
        )
        await self._open.enter_async_context(client)
        person = Person(client, await client.converse("@gateway:angarium"))
        watch = asyncio.create_task(person.watch())
        self._open.push_async_callback(_end, watch)
        return person


@dataclass
class Person:
    """Writes to the agent, one message after another; `states` are those of its device."""

    client: Client
    agent: Conversation
    said: list[str] = field(default_factory=list)
    states: set[str] = field(default_factory=set)

    async def watch(self) -> None:
        """Note every state the device is seen in, from when it is connected on."""
        await self.client.endpoint.caught_up()
        while True:
            self.states.add(self.client.endpoint._desk.machine.state)
            await asyncio.sleep(SAMPLE_S)

    async def write(self) -> None:
        """One message, until it is stored."""
        self.said.append(f"m{len(self.said)}")
        assert isinstance(await self.agent.send(self.said[-1]), Delivered)

    async def write_until(self, stop: asyncio.Event) -> None:
        """No faster than the agent answers, so that little waits at the end."""
        while not stop.is_set():
            await self.write()
            await asyncio.sleep(PAUSE_S)

    async def answers(self) -> list[str]:
        """What the agent said, once it has said as much as was asked, or no more comes."""
        texts: list[str] = []
        try:
            async with asyncio.timeout(ANSWERED_S):
                async for message in self.agent.messages():
                    texts += [] if message.own else [message.text]
                    if len(texts) >= len(self.said):
                        break
        except TimeoutError:
            pass  # What is missing shows.
        return texts

    async def sequences(self) -> list[int]:
        """Of the whole conversation as it lies on this device, where all could be opened."""
        kept = await self.agent.history(100_000)
        assert not [message.problem for message in kept if message.problem]
        return [message.sequence for message in kept]


@asynccontextmanager
async def town(
    make: Callable[..., Cluster],
    folder: Path,
    *,
    services: str = "messaging gateway bridge",
    settings: dict[str, str] | None = None,
    **options: object,
) -> AsyncIterator[Town]:
    """A running cluster behind a balancer of its own, which looks for nodes that are ready."""

    def ports(door: str) -> list[int]:
        return [int(nodes.nodes[number].settings[door]) for number in nodes.ready]

    (folder / "agents.py").write_text(ECHO)
    api, socket = (Balancer(partial(ports, each)) for each in ("port", "websocket_port"))
    url, phone_port = f"http://127.0.0.1:{api.port}", quiet_port()
    phones = PhoneSimulator(
        webhook_url=f"{url}/webhooks/twilio#rc=5&rp=all",
        account_sid=ACCOUNT,
        auth_token=AUTH_TOKEN,
        our_number=OUR_NUMBER,
        api_port=phone_port,
    )
    nodes = make(
        services=services,
        settings={
            "agents": str(folder / "agents.py"),
            "public_base_url": url,
            "public_websocket_url": f"ws://127.0.0.1:{socket.port}/ws",
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_sender": OUR_NUMBER,
            "twilio_api_base": f"http://127.0.0.1:{phone_port}",
            **(settings or {}),
        },
        **options,
    )

    async with api, socket, phones, nodes, AsyncExitStack() as opened:
        yield Town(nodes, url, phones, folder, opened)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
