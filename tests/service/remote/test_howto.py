"""The examples of the guides run as they stand."""

import asyncio
import re
from pathlib import Path
from typing import Any

import openai

from angarium.agents.agent import Agent
from angarium.agents.remote import Remote
from angarium.server.http import HttpServer

from .endpoint import endpoint
from .services import answer

GUIDES = Path(__file__).parents[3] / "docs" / "howto"


def blocks(guide: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)


def test_the_receiver_of_the_guide_answers_the_agent_of_the_guide() -> None:
    declared, served = blocks("cloudevents-agents.md")
    names: dict[str, Any] = {}
    exec(served, names)

    async def scenario() -> str:
        server = HttpServer(names["app"], "127.0.0.1", 0)
        await server.start()
        try:
            url = f"http://127.0.0.1:{server.port}/"
            exec(declared.replace("http://billing.agents.svc.cluster.local", url), names)
            return await answer(names["billing"], "what do I owe?")
        finally:
            await server.stop()

    assert asyncio.run(scenario()) == "You asked: what do I owe?"


def test_the_client_of_the_guide_is_answered(capsys: Any) -> None:
    asks, declares = blocks("openai-api.md")
    orders = Agent("orders", "Delivery status")

    @orders.on_turn
    async def status(turn: Any) -> str:
        return f"You asked: {turn.text}"

    async def scenario() -> None:
        async with endpoint(agents=[orders]) as served:
            code = asks.replace("http://127.0.0.1:8400/v1", served.base_url)
            # The guide's client is synchronous: beside the loop that serves it.
            await asyncio.to_thread(exec, code, {"TOKEN": served.token(), "openai": openai})

    asyncio.run(scenario())
    assert capsys.readouterr().out == "You asked: where is my order?\n"
    names: dict[str, Any] = {}
    exec(declares, names)
    assert isinstance(
        names["chat"], type(Remote.openai("x", "", base_url="http://x", model=""))
    )
