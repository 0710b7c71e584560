"""The journal inside a model's run: kept before tools run, every call through the ledger."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pydantic_ai import ModelMessage, ModelResponse, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition

from angarium.agents.contract import Effect, Usage
from angarium.agents.llm.live import LiveTurn
from angarium.errors import ReplyCutOff, TurnOverBudget

EFFECT = "angarium_effect"  # In a tool's metadata; a tool without it is `once`.


class Journal(AbstractCapability[Any]):
    """Of one attempt. `usage` holds what was used and not yet told."""

    def __init__(self, live: LiveTurn, budget_usd: float = 0.0, budget_tokens: int = 0) -> None:
        self._live = live
        self._budget_usd, self._budget_tokens = budget_usd, budget_tokens
        self.usage: list[Usage] = []

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Raises TurnOverBudget instead of asking again for more than the turn may."""
        cost_usd, tokens = spent(ctx.messages[self._live.base :])
        if self._budget_usd and cost_usd >= self._budget_usd:
            raise TurnOverBudget(f"one turn may cost {self._budget_usd} USD")
        if self._budget_tokens and tokens >= self._budget_tokens:
            raise TurnOverBudget(f"one turn may use {self._budget_tokens} tokens")
        return request_context

    async def after_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        response: ModelResponse,
    ) -> ModelResponse:
        """Raises ReplyCutOff, and what keeping the turn raises."""
        self.usage.append(used(response))
        if _is_cut_off(response):
            raise ReplyCutOff(f"{response.model_name}: the answer stopped before its end")
        # Before any of its tools runs: the calls' ids must outlive this process.
        await self._live.save([*ctx.messages, response])
        return response

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Any,
    ) -> Any:
        if (
            call.tool_kind is not None
        ):  # The framework's own, a search among tools for instance.
            return await handler(args)
        effect: Effect = (tool_def.metadata or {}).get(EFFECT, "once")
        return await self._live.call(
            call,
            args,
            effect,
            ctx.messages,
            lambda: handler(args),
            approved=ctx.tool_call_approved,
        )


def _is_cut_off(response: ModelResponse) -> bool:
    """A connection that ends early looks like an end; but providers say why they stop."""
    if not response.provider_url or response.finish_reason == "content_filter":
        return False  # Models within the process say nothing.
    return "finish_reason" not in (response.provider_details or {})


def used(response: ModelResponse) -> Usage:
    """What one response took."""
    usage = response.usage
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        requests=1,
        cost_usd=float(_cost_usd(response)),
        model=response.model_name or "",
    )


def spent(messages: Sequence[ModelMessage]) -> tuple[float, int]:
    """Cost in USD, as far as prices are known, and tokens of all responses among them."""
    responses = [message for message in messages if isinstance(message, ModelResponse)]
    cost_usd = sum((_cost_usd(response) for response in responses), Decimal())
    tokens = sum(response.usage.total_tokens for response in responses)
    return float(cost_usd), tokens


def _cost_usd(response: ModelResponse) -> Decimal:
    try:
        return response.cost().total_price
    except (LookupError, ValueError, AssertionError):
        return Decimal()  # A model without a known price, or without a name.
