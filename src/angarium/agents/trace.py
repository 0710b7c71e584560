"""What operators may see of a turn's work: names, times and sums, never content."""

import time

import msgspec

from angarium.agents.contract import ToolCall, ToolResult, Usage
from angarium.limits import TRACE_NAME_CHARS_MAX, TRACE_STEPS_MAX


class Step(msgspec.Struct, omit_defaults=True):
    """One tool call. `ms` is -1 where no result was told; `problem` is an error's code."""

    name: str
    ms: int = -1
    problem: str = ""


class Work(msgspec.Struct, omit_defaults=True):
    """Of all attempts of the turn. `left_out` counts the steps over TRACE_STEPS_MAX."""

    steps: list[Step] = []
    left_out: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    cost_usd: float = 0.0
    models: list[str] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Work).decode


class Trace:
    """Of one attempt; goes on from what earlier ones left."""

    def __init__(self, packed: bytes = b"") -> None:
        self._work = _decode(packed) if packed else Work()
        self._running: dict[str, tuple[Step, float]] = {}

    def add(self, event: ToolCall | ToolResult | Usage) -> None:
        match event:
            case ToolCall(id, name):
                self._begin(id, name)
            case ToolResult(id, problem):
                step, began_s = self._running.pop(id, (None, 0.0))
                if step is not None:
                    step.ms = round((time.monotonic() - began_s) * 1000)
                    step.problem = problem[:TRACE_NAME_CHARS_MAX]
            case Usage():
                self._use(event)

    def pack(self) -> bytes:
        """Nothing where nothing was done."""
        return b"" if self._work == Work() else _encode(self._work)

    def _begin(self, id: str, name: str) -> None:
        if len(self._work.steps) >= TRACE_STEPS_MAX:
            self._work.left_out += 1
            return
        step = Step(name[:TRACE_NAME_CHARS_MAX])
        self._work.steps.append(step)
        self._running[id] = (step, time.monotonic())

    def _use(self, usage: Usage) -> None:
        work, model = self._work, usage.model[:TRACE_NAME_CHARS_MAX]
        work.input_tokens += usage.input_tokens
        work.output_tokens += usage.output_tokens
        work.requests += usage.requests
        work.cost_usd += usage.cost_usd
        if model and model not in work.models and len(work.models) < TRACE_STEPS_MAX:
            work.models.append(model)
