"""A device that must fetch keys in the middle of its backlog, while it writes elsewhere."""

import asyncio
from collections.abc import Sequence
from typing import Any

from angarium.e2ee.body import Body
from angarium.ids import UserId
from angarium.sdk.contract import Received
from angarium.storage.contract import PutRecord, Write

from .relay_in_memory import DirectApi, Notebook, World, world

ANN, BOB, CY = (UserId(f"@{name}:test") for name in ("ann", "bob", "cy"))


class Keeper(Notebook):
    """A program that keeps what it is shown in the write that moves the cursor."""

    def plan(self, received: Received) -> Sequence[Write]:
        kept = received.body.text or received.problem
        return [
            PutRecord("kept", f"{received.conversation}/{received.sequence}", kept.encode())
        ]


async def kept(w: World) -> list[str]:
    return [record.blob.decode() for record in await w.store.vault.read("kept")]


def hold_back_queries(api: Any) -> asyncio.Event:
    """Key queries of this device wait for ever from now on; set when one does."""
    reached = asyncio.Event()

    async def slow(users: Sequence[UserId]) -> dict[str, Any]:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    api.query_keys = slow
    return reached


async def scenario() -> None:
    async with world() as w:
        ann, cy = await w.device("ann", Notebook()), await w.device("cy", Notebook())
        bob = await w.device("bob", Keeper())
        pair = await bob.converse([ANN])
        await bob.sent(await bob.submit(pair, Body(text="bob knows ann")))
        w.connectors[bob.device].cut()
        w.connectors[bob.device].down = True
        group = await ann.converse([BOB, CY])
        await ann.sent(await ann.submit(group, Body(text="from ann")))
        await cy.sent(await cy.submit(group, Body(text="from cy")))

        api: DirectApi = bob._desk.keyring._api  # type: ignore[assignment]
        reached = hold_back_queries(api)
        w.connectors[bob.device].down = False
        async with asyncio.timeout(20):
            await reached.wait()  # ann's message is open, cy's keys are being fetched
        await bob.submit(pair, Body(text="written meanwhile"))
        await bob.close()  # and it dies here

        again = Keeper()
        await w.device("bob", again, device=bob.device)
        await again.texts(2)  # cy's message, and what was written meanwhile
        assert sorted(await kept(w)) == [
            "bob knows ann", "from ann", "from cy", "written meanwhile",
        ]  # fmt: skip


def test_a_crash_while_keys_are_fetched_loses_no_message_that_was_opened() -> None:
    asyncio.run(scenario())
