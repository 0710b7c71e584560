"""Agents that only stand for their examples."""

from collections.abc import Mapping, Sequence

from angarium.agents.agent import Agent
from angarium.agents.contract import Turn


def agents_of(examples: Mapping[str, Sequence[str]]) -> list[Agent]:
    """Function agents with these examples. Raises Misconfigured for names they cannot have."""
    return [silent_agent(name, said) for name, said in examples.items()]


def silent_agent(name: str, examples: Sequence[str] = ()) -> Agent:
    """One that answers nothing: only who is chosen counts."""
    agent = Agent(name, name, examples=examples)

    @agent.on_turn
    async def answer(turn: Turn) -> None:
        return None

    return agent
