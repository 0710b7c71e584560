"""One attempt at one turn of an LLM agent: what is kept of it, and its tool calls' ledger."""

import asyncio
import logging
import secrets
import traceback
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from pydantic_ai import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ModelRetry
from pydantic_ai.exceptions import (
    ApprovalRequired,
    ToolFailed,
    ToolFailedError,
    ToolRetryError,
)
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_core import to_json

from angarium.agents.approvals import canonical
from angarium.agents.contract import Effect, Turn
from angarium.agents.marking import Marks
from angarium.agents.toolbox import ToolContext
from angarium.errors import AngariumError, OutcomeUnknown, Refused, Unavailable
from angarium.limits import (
    TOOL_CALL_S,
    TOOL_RESULT_BYTES_MAX,
    TOOL_RESULTS_BYTES_MAX,
    TOOL_RETRY_MAX_S,
    TOOL_TRIES,
)
from angarium.resilience import classify, retry

_log = logging.getLogger(__name__)
KEPT_AS = "llm"
CUT_NOTE = "\n[The rest of this result was too long and was cut.]"
RESULT_BYTES_MIN = 512  # Left to every result, however much the turn has seen already.
Run = Callable[[], Awaitable[Any]]


class Unanswered(Unavailable):
    """A call was sent and no answer came: it may be sent again with the same key."""


class Kept(msgspec.Struct, omit_defaults=True):
    """In the turn's journal. `messages`: of this turn, the prompt left out, packed. `said`: how
    many of the responses went out to the person, with a question. `owners`: of the tools that
    the newest response calls, which server each is of."""

    mark: str = ""
    said: int = 0
    asked_ms: dict[str, int] = {}
    owners: dict[str, str] = {}
    messages: bytes = b""


class Record(msgspec.Struct, omit_defaults=True):
    """A finished tool call, as the ledger has it. `problem` is an error's code."""

    text: str = ""
    problem: str = ""
    deferred: bool = False


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Kept).decode


class LiveTurn:
    """`base` counts the messages before this turn's own, once they are known."""

    def __init__(self, turn: Turn, tool_calls_max: int) -> None:
        self.turn, self._calls_max = turn, tool_calls_max
        kept = turn.tools.kept(KEPT_AS)
        self.kept = _unpack(kept) if kept else Kept(mark=secrets.token_hex(8))
        self.marks = Marks(lambda _size: self.kept.mark)
        self.base = 0
        self.contexts: dict[str, ToolContext] = {}
        self.problems: dict[str, str] = {}
        self.owners = dict(self.kept.owners)  # Of remote tools: which server each is of.
        self.absent: dict[str, dict[str, str]] = {}  # By server: tools not to be had, and why.

    # --- what is kept ---------------------------------------------------------------------

    def earlier(self) -> list[ModelMessage]:
        """What earlier attempts of this turn have exchanged with the model."""
        if not self.kept.messages:
            return []
        return ModelMessagesTypeAdapter.validate_json(zlib.decompress(self.kept.messages))

    async def save(self, messages: Sequence[ModelMessage]) -> None:
        """Keep all of this turn, durably. Raises TooLarge."""
        own = list(messages[self.base :])
        calls = own[-1].tool_calls if own and isinstance(own[-1], ModelResponse) else []
        called = {call.tool_name for call in calls}
        self.kept.owners = {
            tool: server for tool, server in self.owners.items() if tool in called
        }
        self.kept.messages = zlib.compress(ModelMessagesTypeAdapter.dump_json(own))
        await self.turn.tools.keep(KEPT_AS, _pack(self.kept))

    async def asked(self, name: str, now_ms: int) -> int:
        """When the question `name` was first put; durable before it is."""
        if name not in self.kept.asked_ms:
            self.kept.asked_ms[name] = now_ms
            await self.turn.tools.keep(KEPT_AS, _pack(self.kept))
        return self.kept.asked_ms[name]

    def waits_for(self, server: str) -> bool:
        """Whether calls of its tools are still to be answered."""
        return server in self.kept.owners.values()

    # --- tool calls -----------------------------------------------------------------------

    async def call(
        self,
        call: ToolCallPart,
        arguments: dict[str, Any],
        effect: Effect,
        messages: Sequence[ModelMessage],
        run: Run,
        *,
        approved: bool = False,
    ) -> str:
        """What the model is to read of the call's result, from the ledger where it has it.

        Raises ModelRetry and ApprovalRequired as the tool did, and what the journal raises.
        """
        if self._position(call, messages) > self._calls_max:
            self.problems[call.tool_call_id] = "over_budget"
            return f"over_budget: no more than {self._calls_max} tool calls. Answer now."
        room = self._room(messages)

        async def do(key: str) -> dict[str, Any]:
            self.contexts[call.tool_call_id] = self._context(key)
            record = await _attempt(run, effect, call.tool_name)
            record.text = cut_bytes(record.text, room)
            made: dict[str, Any] = msgspec.to_builtins(record)
            return made

        responses = sum(isinstance(message, ModelResponse) for message in messages)
        name = f"{call.tool_name}:{responses - self._base_responses(messages)}"
        name += f":{call.tool_call_id}" + (":approved" if approved else "")
        try:
            done = await self.turn.tools.call(name, effect, do, canonical(arguments))
        except OutcomeUnknown as error:
            done = {"text": str(error), "problem": error.code}
        return self._tell(call, msgspec.convert(done, Record))

    def _tell(self, call: ToolCallPart, record: Record) -> str:
        if record.deferred:
            raise ApprovalRequired
        if record.problem == "retry":
            raise ModelRetry(record.text)
        source = f"tool:{call.tool_name}"
        if not record.problem:
            return self.marks.wrap(record.text, source)
        self.problems[call.tool_call_id] = record.problem
        if record.problem == OutcomeUnknown.code:
            return (
                "outcome_unknown: the call was interrupted and may or may not have taken"
                " effect. Do not repeat it; tell the person to check."
            )
        return f"{record.problem}: {self.marks.wrap(record.text, source)}"

    def _position(self, call: ToolCallPart, messages: Sequence[ModelMessage]) -> int:
        """The how many-th tool call of this turn it is; the same in every attempt."""
        position = 0
        responses = [m for m in messages[self.base :] if isinstance(m, ModelResponse)]
        for response in responses:
            for made in response.tool_calls:
                position += 1
                if response is responses[-1] and made.tool_call_id == call.tool_call_id:
                    return position
        return position

    def _base_responses(self, messages: Sequence[ModelMessage]) -> int:
        return sum(isinstance(message, ModelResponse) for message in messages[: self.base])

    def _room(self, messages: Sequence[ModelMessage]) -> int:
        seen = sum(
            len(str(part.content).encode(errors="replace"))
            for message in messages[self.base :]
            for part in message.parts
            if isinstance(part, ToolReturnPart)
        )
        left = max(RESULT_BYTES_MIN, TOOL_RESULTS_BYTES_MAX - seen)
        return min(TOOL_RESULT_BYTES_MAX, left)

    def _context(self, key: str) -> ToolContext:
        turn = self.turn
        return ToolContext(
            key, turn.agent, turn.conversation, turn.person, turn.memory, turn.tools.status
        )


async def _attempt(run: Run, effect: Effect, tool: str) -> Record:
    """Run the tool; its failures are results, too, because the model has to know of them.

    Where a call may be repeated, failures that may pass are tried again; where not, one that
    leaves open what happened is an unknown outcome.
    """
    tries = 1 if effect == "once" else TOOL_TRIES
    try:
        async with asyncio.timeout(TOOL_CALL_S * tries):
            return Record(
                plain_text(await retry(run, attempts_max=tries, wait_max_s=TOOL_RETRY_MAX_S))
            )
    except (ModelRetry, ToolRetryError) as error:
        return Record(str(error), "retry")
    except (ToolFailed, ToolFailedError) as error:
        return Record(str(error), "failed")
    except ApprovalRequired:
        return Record(deferred=True)
    except OutcomeUnknown as error:
        return Record("", error.code)
    except Unanswered as error:
        return Record(str(error), error.code if effect == "read" else OutcomeUnknown.code)
    except AngariumError as error:
        said = str(error) if isinstance(error, Refused) or error.retryable else ""
        return Record(said, error.code)
    except Exception as error:
        _note(tool, error)
        if effect != "read" and classify(error) == "retry":
            return Record("", OutcomeUnknown.code)
        return Record(type(error).__name__, "tool_error")


def plain_text(result: Any) -> str:
    """A tool's result as the model reads it: text as it is, the rest as JSON."""
    if isinstance(result, str):
        return result.encode(errors="replace").decode()
    return to_json(result, fallback=lambda value: type(value).__name__).decode()


def cut_bytes(text: str, bytes_max: int) -> str:
    """`text`, cut with a note where its UTF-8 form is longer."""
    packed = text.encode(errors="replace")
    if len(packed) <= bytes_max:
        return text
    return packed[:bytes_max].decode(errors="ignore") + CUT_NOTE


def _note(tool: str, error: Exception) -> None:
    # Where it failed, for the developer; never its message, which may quote the person.
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    _log.warning("tool %s failed: %s at %s", tool, type(error).__name__, where)
