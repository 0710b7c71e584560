"""What nodes share: given back when a node ends."""

import asyncio
from typing import Any

from angarium.adapters.wire import Wire
from angarium.bus.local import LocalBus
from angarium.errors import Unavailable


class Part:
    """A registry, or presence, that may not answer when it is to be given back."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.renewed, self.released = error, asyncio.Event(), False

    async def renew(self) -> None:
        self.renewed.set()

    async def release(self) -> None:
        self.released = True
        if self.error is not None:
            raise self.error


def test_a_lease_is_given_back_even_where_presence_cannot_be() -> None:
    async def scenario() -> None:
        wire = Wire(LocalBus(), lambda: True)
        registry: Any = Part()
        presence: Any = Part(Unavailable("away"))
        wire.registry, wire.presence = registry, presence
        keeping = asyncio.create_task(wire.keep_lease())
        await registry.renewed.wait()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

        assert presence.released
        assert registry.released

    asyncio.run(scenario())
