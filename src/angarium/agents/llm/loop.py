"""The exchange between a model, its tools and a person within one turn."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolDenied,
    UsageLimits,
)
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
)
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_core import to_json

from angarium.agents.approvals import OPTIONS, Approval, judge
from angarium.agents.contract import (
    AgentEvent,
    Done,
    Handoff,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from angarium.agents.llm.journal import Journal
from angarium.agents.llm.live import LiveTurn
from angarium.agents.llm.providers import as_ours
from angarium.clock import Clock
from angarium.limits import MODEL_ALIVE_EVERY_S, MODEL_REQUESTS_OVER_CALLS

SETTINGS = ModelSettings(max_retries=0)  # The ward tries again, and says when it gives up.


HAND_OFF = "hand_off"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one turn may use."""

    tool_calls_max: int
    budget_usd: float = 0.0
    budget_tokens: int = 0


class Exchange:
    """One attempt at one turn. `agent` is the framework's; what is given with each run of it
    comes as `given`."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        model: Model | None,
        live: LiveTurn,
        clock: Clock,
        bounds: Bounds,
        **given: Any,
    ) -> None:
        self._agent, self._model, self._live = agent, model, live
        self._clock, self._bounds, self._given = clock, bounds, given
        self._journal = Journal(live, bounds.budget_usd, bounds.budget_tokens)
        self._spoke = False
        self._alive_s = time.monotonic()

    async def events(
        self, before: Sequence[ModelMessage], asked: ModelMessage
    ) -> AsyncGenerator[AgentEvent, None]:
        """Answer `asked`, from where earlier attempts of the turn have come to."""
        try:
            async with aclosing(self._events(before, asked)) as events:
                async for event in events:
                    yield event
        except Exception as error:
            ours = as_ours(error, self._live.turn.agent)
            if ours is error:
                raise
            raise ours from None

    async def _events(
        self, before: Sequence[ModelMessage], asked: ModelMessage
    ) -> AsyncGenerator[AgentEvent, None]:
        live = self._live
        live.base = len(before) + 1
        history = [*before, asked, *live.earlier()]
        for event in self._again(history[live.base :]):
            yield event
        results: DeferredToolResults | None = None
        while True:
            output: Any = None
            async with self._agent.iter(
                None,
                message_history=history,
                deferred_tool_results=results,
                model=self._model,
                model_settings=SETTINGS,
                capabilities=[self._journal],
                usage_limits=self._usage_limits(),
                **self._given,
            ) as run:
                async for node in run:
                    if Agent.is_model_request_node(node) or Agent.is_call_tools_node(node):
                        async with node.stream(run.ctx) as stream:
                            async for happened in stream:
                                for told in self._translate(happened):
                                    yield told
                    for usage in self._take_usage():
                        yield usage
                if run.result is not None:
                    output, history = run.result.output, run.result.all_messages()
            if not isinstance(output, DeferredToolRequests):
                for told in self._conclude(output):
                    yield told
                return
            results = await self._ask_about(output, history)

    def _conclude(self, output: Any) -> list[AgentEvent]:
        if type(output).__name__ == "HandOff":
            return [Handoff(output.to, output.reason), Done()]
        if not self._spoke and output is not None:
            text = output if isinstance(output, str) else to_json(output).decode()
            return [Text(text), Done()]
        return [Done()]

    # --- what the person hears ------------------------------------------------------------

    def _again(self, earlier: Sequence[ModelMessage]) -> list[AgentEvent]:
        """What earlier attempts have said and did not send out."""
        told: list[AgentEvent] = []
        responses = [one for one in earlier if isinstance(one, ModelResponse)]
        for response in responses[self._live.kept.said :]:
            text = "".join(one.content for one in response.parts if isinstance(one, TextPart))
            if text:
                told.append(self._say(text, begins=True))
        return told

    def _translate(self, event: Any) -> list[AgentEvent]:
        match event:
            case PartStartEvent(part=TextPart(content=text)):
                return [self._say(text, begins=True)] if text else []
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                return [self._say(text, begins=False)] if text else []
            case FunctionToolCallEvent(part=part):
                return [ToolCall(part.tool_call_id, part.tool_name)]
            case FunctionToolResultEvent(tool_call_id=call):
                return [ToolResult(call, self._live.problems.get(call, ""))]
            case (
                PartStartEvent(part=ThinkingPart()) | PartDeltaEvent(delta=ThinkingPartDelta())
            ):
                return self._sign_of_life()
        return []

    def _say(self, text: str, *, begins: bool) -> Text:
        gap = "\n\n" if begins and self._spoke else ""
        self._spoke = True
        return Text(gap + text)

    def _sign_of_life(self) -> list[AgentEvent]:
        now_s = time.monotonic()
        if now_s - self._alive_s < MODEL_ALIVE_EVERY_S:
            return []
        self._alive_s = now_s
        return [Usage()]

    def _take_usage(self) -> list[Usage]:
        usage, self._journal.usage = self._journal.usage, []
        return usage

    # --- approvals ------------------------------------------------------------------------

    async def _ask_about(
        self, requests: DeferredToolRequests, history: Sequence[ModelMessage]
    ) -> DeferredToolResults:
        """Ask the person about each call, one after the other; the turn waits meanwhile."""
        results = DeferredToolResults()
        for call in requests.calls:
            results.calls[call.tool_call_id] = "failed: this tool cannot be run here."
        for call in requests.approvals:
            problem = await self._ask(call, history)
            results.approvals[call.tool_call_id] = ToolDenied(problem) if problem else True
            if problem:
                self._live.problems[call.tool_call_id] = problem.partition(":")[0]
        return results

    async def _ask(self, call: ToolCallPart, history: Sequence[ModelMessage]) -> str:
        """What the model is told; empty when the person approved."""
        live = self._live
        approval = Approval(call.tool_name, call.args_as_dict(), call.tool_call_id)
        if not approval.can_be_shown:
            return "denied: the arguments are too long to be shown to a person."
        asked_ms = await live.asked(approval.name, self._clock.now_ms())
        answer = await live.turn.ask(approval.question, OPTIONS, approval.name)
        # All that was said so far went out with the question.
        responses = [one for one in history[live.base :] if isinstance(one, ModelResponse)]
        live.kept.said, self._spoke = len(responses), False
        return judge(answer, asked_ms, self._clock.now_ms())

    def _usage_limits(self) -> UsageLimits:
        requests = self._bounds.tool_calls_max + MODEL_REQUESTS_OVER_CALLS
        return UsageLimits(request_limit=requests)
