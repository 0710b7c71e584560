"""The code of the how-to runs, and its agents answer."""

import asyncio
import re
from pathlib import Path

import pytest

pytest.importorskip("pydantic_ai")

from angarium.testing.agents import AgentWorld

PAGE = Path(__file__).parents[4] / "docs" / "howto" / "llm-agents.md"


def test_the_agents_of_the_page_answer():
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)

    async def scenario():
        async with AgentWorld([names["shop"], names["trips"]]) as world:
            assert await world.say("where is it?") == ["It is on its way."]
            assert await world.say("@trips to Oslo") == ["success (no tool calls)"]

    asyncio.run(scenario())
