"""Runs the dialogues that agents declare, through the gateway they will work in."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from angarium.adapters.store import OpenedStore
from angarium.agents.declared import EvalCase
from angarium.agents.registry import Registry
from angarium.agents.routing.make import make_router, make_worker
from angarium.clock import ManualClock
from angarium.ids import ConversationId
from angarium.limits import EVAL_ANSWER_WAIT_S
from angarium.storage.sqlite.store import open_sqlite
from angarium.testing.agents import AgentWorld
from angarium.testing.fakes import Sent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case. `reason` is the router's for the last message; `problem` is
    empty where the case holds."""

    case: EvalCase
    agent: str
    answer: str
    reason: str
    problem: str


async def try_cases(registry: Registry, cases: Sequence[EvalCase]) -> AsyncIterator[Outcome]:
    """One outcome after the other, each in a conversation of its own. Raises Misconfigured."""
    declared = registry.declared
    async with AsyncExitStack() as parts:
        folder = parts.enter_context(tempfile.TemporaryDirectory(prefix="angarium-eval-"))

        async def open_store(clock: ManualClock) -> OpenedStore:
            return await open_sqlite(Path(folder), clock)

        worker = make_worker(declared.routing)
        if worker is not None:
            parts.push_async_callback(worker.close)
        world = AgentWorld(
            declared.agents,
            default=registry.default,
            routing=declared.routing,
            embedder=worker,
            open_store=open_store,
        )
        world.router = make_router(world.registry, worker)
        parts.push_async_callback(world.router.close)
        await world.router.open(wait_s=None)
        await parts.enter_async_context(world)
        for number, case in enumerate(cases, 1):
            place = ConversationId(f"01999999-0000-7000-8000-{number:012d}")
            yield await _try(world, case, place)


async def _try(world: AgentWorld, case: EvalCase, place: ConversationId) -> Outcome:
    answers: list[Sent] = []
    for text in case.say:
        before = len(world.answers(place))
        try:
            async with asyncio.timeout(EVAL_ANSWER_WAIT_S):
                await world.say(text, conversation=place)
        except TimeoutError:
            return Outcome(case, "", "", "", f"no answer within {EVAL_ANSWER_WAIT_S:.0f} s")
        answers = world.answers(place)[before:]
    answer = "\n".join(sent.body.text for sent in answers)
    agent = next((sent.body.agent for sent in answers if sent.body.agent), "")
    return Outcome(
        case, agent, answer, await _reason(world, place), _problem(case, agent, answer)
    )


def _problem(case: EvalCase, agent: str, answer: str) -> str:
    if case.agent and agent != case.agent:
        return f"{agent or 'no agent'} answered, not {case.agent}"
    missing = [text for text in case.contains if text.lower() not in answer.lower()]
    return f"the answer does not contain {missing[0]!r}" if missing else ""


async def _reason(world: AgentWorld, place: ConversationId) -> str:
    """Why the last message went where it went."""
    log = world.relay.log.get(place, [])
    said = [number for number, sent in enumerate(log, 1) if not sent.body.ref]
    return (await world.turn(said[-1], place)).reason if said else ""
