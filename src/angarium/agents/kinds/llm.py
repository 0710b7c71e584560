"""An agent that a language model speaks for, with tools, approvals and budgets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any, Unpack

from angarium.agents.contract import AgentEvent, Done, Host, Text, Turn
from angarium.agents.llm.outline import Outline
from angarium.agents.mcp import MCP
from angarium.agents.terms import TermOptions, check_name, make_terms
from angarium.agents.toolbox import Tool
from angarium.clock import Clock, SystemClock
from angarium.errors import Misconfigured
from angarium.limits import TOOL_CALLS_MAX

COMMAND = "/model"
CHOICES = "models"  # In the agent's memory: which model a person chose.
NEEDED = "LLM agents need more packages: install them with `pip install 'angarium[llm]'`"


class LLM:
    """An agent made of a prompt, models and tools.

        support = LLM("support", "Refunds and complaints", model="openai:gpt-5.2",
            prompt="You are the shop's support agent.",
            tools=[refund, MCP("https://mcp.shop/mcp", lazy=True, approve=["refund_*"])])

    `model` names one model, or several: while one fails the next is asked. People change it for
    themselves with `/model NAME`. `tools` are made by `@tool` or are MCP servers. `can_handoff`
    names whom the model may pass a conversation to; without it, nobody. `max_tool_calls`,
    `budget_usd` and `budget_tokens` bound one turn (0: no bound). Other terms as everywhere.

    Raises Misconfigured for what makes no sense, and without the packages of `angarium[llm]`.
    """

    def __init__(
        self,
        name: str,
        description: str,
        *,
        model: Any,
        prompt: str = "",
        tools: Sequence[Tool | MCP] = (),
        max_tool_calls: int = TOOL_CALLS_MAX,
        budget_tokens: int = 0,
        clock: Clock | None = None,
        **terms: Unpack[TermOptions],
    ) -> None:
        _need_packages()
        self.name, self.description = check_name(name), description
        self.terms = make_terms(terms)
        self.models = _by_name(name, model)
        outline = Outline(
            name,
            prompt,
            self.models,
            tuple(one for one in tools if isinstance(one, Tool)),
            tuple(one for one in tools if isinstance(one, MCP)),
            tuple(terms.get("can_handoff", ())),
            max_tool_calls,
            self.terms.budget_usd,
            budget_tokens,
        )
        if not all(isinstance(one, Tool | MCP) for one in tools):
            raise Misconfigured(f"agent {name!r}: tools are made by `@tool`, or are `MCP(...)`")
        self._warm = Warm(outline, clock or SystemClock())

    async def open(self, host: Host) -> None:
        """Make its models and connect its tool servers, but for the lazy ones. Raises
        Misconfigured for models that cannot be had, Unavailable for a server that is away."""
        await self._warm.open(host)

    async def close(self) -> None:
        """Close every connection. It may be opened again."""
        await self._warm.close()

    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer the turn. Raises AngariumErrors only, for what models and providers do."""
        if turn.text.strip().lower().split(" ")[0] == COMMAND:
            yield Text(self._choose(turn))
            yield Done()
            return
        engine = await self._warm.engine()
        async with aclosing(engine.run(turn, self._chosen(turn))) as events:
            async for event in events:
                yield event

    # --- which model ----------------------------------------------------------------------

    def _chosen(self, turn: Turn) -> list[str]:
        """Names of its models, the person's choice first."""
        chosen = turn.memory.get(CHOICES, {}).get(turn.person.user, "")
        others = [name for name in self.models if name != chosen]
        return [chosen, *others] if chosen in self.models else others

    def _choose(self, turn: Turn) -> str:
        wanted = turn.text.strip()[len(COMMAND) :].strip()
        found = wanted if wanted in self.models else _short(wanted, list(self.models))
        if found:
            turn.memory.setdefault(CHOICES, {})[turn.person.user] = found
            return f"From now on {found} answers you here."
        now = self._chosen(turn)[0]
        listed = [f"- {name}{' (now)' if name == now else ''}" for name in self.models]
        opening = f"There is no model {wanted[:80]!r} here. " if wanted else ""
        lines = ["Models of this agent:", *listed, f"{COMMAND} NAME changes it."]
        return opening + "\n".join(lines)


class Adopted:
    """An agent of Pydantic AI, brought along as it is; `Agent.from_pydantic_ai` makes it.

    Its model, prompt, tools and output stay its own; its turns are kept before tools run, and
    its tool calls go through the ledger, as those of `LLM`. A tool is `once` unless its
    metadata says otherwise: `Tool(..., metadata={"angarium_effect": "keyed"})`. Its tools get
    no `deps`. What it answers, if not text, is shown as JSON.
    """

    def __init__(
        self,
        agent: Any,
        name: str,
        description: str,
        *,
        max_tool_calls: int = TOOL_CALLS_MAX,
        budget_tokens: int = 0,
        clock: Clock | None = None,
        **terms: Unpack[TermOptions],
    ) -> None:
        _need_packages()
        self.name, self.description = check_name(name), description
        self.terms = make_terms(terms)
        outline = Outline(
            name,
            max_tool_calls=max_tool_calls,
            budget_usd=self.terms.budget_usd,
            budget_tokens=budget_tokens,
            adopted=agent,
        )
        self._warm = Warm(outline, clock or SystemClock())

    async def open(self, host: Host) -> None:
        """Raises Misconfigured for what is no agent of Pydantic AI."""
        await self._warm.open(host)

    async def close(self) -> None:
        """What the agent itself holds stays its own."""
        await self._warm.close()

    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer the turn. Raises as `LLM.run`."""
        engine = await self._warm.engine()
        async with aclosing(engine.run(turn, ())) as events:
            async for event in events:
                yield event


class Warm:
    """What an agent keeps between turns; made at first use, because it takes long to load."""

    def __init__(self, outline: Outline, clock: Clock) -> None:
        self._outline, self._clock = outline, clock
        self._host: Host | None = None
        self._making = asyncio.Lock()
        self._engine: Any = None

    async def open(self, host: Host) -> None:
        self._host = host
        await (await self.engine()).warm()

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def engine(self) -> Any:
        async with self._making:
            if self._engine is None:
                # In a thread: these packages take more than a second to load.
                make = await asyncio.to_thread(_load_engine)
                self._engine = make(self._outline, self._host, self._clock)
            return self._engine


def _by_name(agent: str, model: Any) -> dict[str, Any]:
    """The models of an agent by the names that people know them by."""
    given = list(model) if isinstance(model, list | tuple) else [model]
    named = {_model_name(one): one for one in given}
    if not given or "" in named or len(named) != len(given):
        raise Misconfigured(
            f"agent {agent!r}: `model` is a name, a model, or a list of different ones"
        )
    return named


def _model_name(model: Any) -> str:
    return model if isinstance(model, str) else str(getattr(model, "model_name", ""))


def _short(wanted: str, names: Sequence[str]) -> str:
    """`gpt-5.2` is `openai:gpt-5.2` where no other model has that ending."""
    fit = [name for name in names if name.partition(":")[2].lower() == wanted.lower() != ""]
    return fit[0] if len(fit) == 1 else ""


def _need_packages() -> None:
    for package in ("pydantic_ai", "fastmcp"):
        if find_spec(package) is None:
            raise Misconfigured(NEEDED)


def _load_engine() -> Any:
    try:
        from angarium.agents.llm.engine import Engine
    except ImportError:
        raise Misconfigured(NEEDED) from None
    return Engine
