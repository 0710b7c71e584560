"""Bounds of what goes into an agent and what comes out. Pure, but for the rate hook."""

from collections.abc import Callable
from dataclasses import dataclass

from angarium.agents.sentences import BUDGET_SPENT, say
from angarium.errors import (
    AgentFailed,
    AngariumError,
    BadReply,
    Busy,
    NoReply,
    OutcomeUnknown,
    OverBudget,
    ReplyCutOff,
    TooLarge,
    TurnOverBudget,
    Undecryptable,
)
from angarium.ids import UserId
from angarium.limits import REPLY_BYTES_MAX, TURN_TEXT_CHARS_MAX

CUT_NOTE = "\n\n[The answer was too long and was cut here.]"
Admit = Callable[[UserId], bool]


def admit_everybody(_user: UserId) -> bool:
    """The rate hook where the relay's own limits are enough."""
    return True


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an attempt failed: a code for operators, a plain sentence for the person."""

    code: str
    sentence: str
    again: bool


TOO_LONG = Trouble(
    "too_large", f"Please send at most {TURN_TEXT_CHARS_MAX:,} characters at once.", again=False
)
TOO_FAST = Trouble(
    "rate_limited", "That was faster than I can follow. Please wait a minute.", again=False
)
TIMED_OUT = Trouble(
    "timed_out", "Sorry, this took too long, so I stopped. Please try again.", again=False
)
SILENT = Trouble(
    "silent", "Sorry, no answer began in time, so I stopped. Please try again.", again=False
)
STALLED = Trouble(
    "stalled", "Sorry, the answer did not go on, so I stopped. Please try again.", again=False
)
IN_CIRCLES = Trouble(
    "handoff", "Sorry, no agent here could take this. Nothing was done.", again=False
)
NOT_ALLOWED = Trouble(
    "handoff_refused", "Sorry, no agent here could take this. Nothing was done.", again=False
)
TOO_DEAR = Trouble(
    TurnOverBudget.code,
    "Sorry, this took more than I may use for one message, so I stopped.",
    again=False,
)
OVER_BUDGET = Trouble(OverBudget.code, say(BUDGET_SPENT), again=False)
NO_AGENT = Trouble("no_agent", "Sorry, the agent for this is no longer here.", again=False)
TIRED = Trouble(
    "attempts", "Sorry, this failed several times and I gave up. Please try again.", again=False
)
UNSURE = Trouble(
    OutcomeUnknown.code,
    "Sorry, I was interrupted and cannot tell whether it took effect. Please check before you"
    " try again.",
    again=False,
)
TOO_MANY_OPEN = Trouble(
    "questions_open",
    "Please answer the questions above first, or write /reset to start anew.",
    again=False,
)
UNREAD = Trouble(
    Undecryptable.code, "I could not read your last message. Please send it again.", again=False
)
STILL_BUSY = Trouble(
    "busy",
    "I am still working on your last message. Please write again when it is answered.",
    again=False,
)
CANCELLED = Trouble(
    "cancelled", "This was stopped by an operator of this service.", again=False
)
BUSY = Trouble(
    Busy.code, "I have too much to do just now. Please try again in a few minutes.", again=True
)
FLOODED = Trouble(
    TooLarge.code, "Sorry, the answer became far too long, so I stopped.", again=False
)
BROKEN = Trouble("agent_error", "Sorry, something went wrong while answering.", again=False)
FAILED_ELSEWHERE = Trouble(BROKEN.code, BROKEN.sentence, again=False)
UNREADABLE = "Sorry, the answer came in a form that I cannot read. Please try again."
_BAD_REPLIES = {
    ReplyCutOff.code: "Sorry, the answer broke off before its end. Please try again.",
    NoReply.code: "Your message has arrived, but I have no answer to it here.",
}
BROKEN_FOR_NOW = Trouble("agent_unavailable", TIRED.sentence, again=True)


def stands_in(absent: str, agent: str) -> str:
    """What a person is told first when another agent answers than the one that was to."""
    return f"@{absent} does not answer just now; I am @{agent}."


def check_inbound(text: str, user: UserId, admit: Admit) -> Trouble | None:
    """What is wrong with a message before an agent may see it, or None."""
    if len(text) > TURN_TEXT_CHARS_MAX:
        return TOO_LONG
    return None if admit(user) else TOO_FAST


def cut_reply(text: str, bytes_max: int = REPLY_BYTES_MAX) -> str:
    """`text`, cut with a note when its UTF-8 form is longer than `bytes_max`."""
    if len(text.encode()) <= bytes_max:
        return text
    room = bytes_max - len(CUT_NOTE.encode())
    return text.encode()[:room].decode(errors="ignore") + CUT_NOTE


def classify(error: Exception) -> Trouble:
    """What an agent's exception means: try again, or tell the person."""
    if isinstance(error, OutcomeUnknown):
        return UNSURE
    if isinstance(error, Busy):
        return BUSY
    if isinstance(error, TooLarge):
        return FLOODED
    if isinstance(error, TurnOverBudget):
        return TOO_DEAR
    if isinstance(error, OverBudget):
        return OVER_BUDGET
    if isinstance(error, BadReply):
        return Trouble(error.code, _BAD_REPLIES.get(error.code, UNREADABLE), again=False)
    if isinstance(error, AgentFailed):
        return FAILED_ELSEWHERE
    if isinstance(error, AngariumError):
        return BROKEN_FOR_NOW if error.retryable else BROKEN
    # Files and names fail the same way again; connections may not.
    if isinstance(error, ConnectionError | TimeoutError):
        return BROKEN_FOR_NOW
    return BROKEN
