"""A turn outside of any gateway."""

from typing import Any

from angarium.agents.contract import Person, Turn


class Tools:
    """TurnTools that remember nothing of earlier attempts."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    async def keep(self, name: str, value: bytes) -> None:
        self._values[name] = value

    def kept(self, name: str) -> bytes | None:
        return self._values.get(name)

    async def call(self, _name: str, _effect: str, do: Any, *_arguments: Any) -> Any:
        return await do("key")

    async def status(self, _text: str) -> None:
        """Nobody looks."""


def one_turn(text: str = "hi", agent: str = "shop", **fields: Any) -> Turn:
    tools: Any = Tools()
    return Turn("c", 1, text, Person("@ada:test"), agent, 1, tools, **fields)
