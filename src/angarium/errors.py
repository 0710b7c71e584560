"""One table of errors: code, retryable, HTTP status, close code.

`code` is part of the protocol and never changes; the sentence may. A class names a fact; what a
peer needs in order to act (`expect_cs`, `after_ms`) are attributes, listed in `data()`.

    AngariumError
    |-- Refused            the request is understood and not done; the caller may correct it
    |-- Unavailable        try again later (with `after_ms`)
    |-- Unauthenticated    who is asking is not known
    |-- Untrusted          end-to-end: keys, ratchets and envelopes do not add up
    |-- AgentFailed        an agent gave no answer, or none that can be read
    `-- Misconfigured      start-up: settings, ports, disk, schema
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class AngariumError(Exception):
    """Every error a user can meet. `code` is stable; `str(error)` says what to do."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    close_code: ClassVar[int] = 4002

    def data(self) -> dict[str, Any]:
        """Fields a program needs to act on this error, as JSON-compatible values."""
        return {}


# --- the request is refused ---------------------------------------------------------------


class Refused(AngariumError):
    """The request was understood and not carried out."""

    code, http_status, close_code = "refused", 400, 4400


class Malformed(Refused):
    """The bytes do not follow the protocol."""

    code = "malformed"


class TooLarge(Refused):
    """A frame, a body or an upload is over its limit."""

    code, http_status, close_code = "too_large", 413, 4413


class UnsupportedVersion(Refused):
    """The peer speaks a protocol version this node does not."""

    code, http_status, close_code = "unsupported_version", 426, 4406


class Forbidden(Refused):
    """The principal is known and may not do this."""

    code, http_status, close_code = "forbidden", 403, 4403


class NotFound(Refused):
    """There is no such thing, or the principal may not know of it."""

    code, http_status = "not_found", 404


class NotMember(Refused):
    """The device's user does not take part in this conversation."""

    code, http_status = "not_member", 403


class OutOfOrder(Refused):
    """The predecessor of this message (`cs` - 1) is not stored; send again from `expect_cs`."""

    code, retryable, http_status = "out_of_order", True, 409

    def __init__(self, expect_cs: int) -> None:
        super().__init__(f"send again from counter {expect_cs}")
        self.expect_cs = expect_cs

    def data(self) -> dict[str, Any]:
        return {"expect_cs": self.expect_cs}


class KeyReused(Refused):
    """The idempotency key already names another message; choose a new key."""

    code, http_status = "key_reused", 409


class KeyExpired(Refused):
    """The key is below the device's high-water mark and its message has been purged."""

    code, http_status = "key_expired", 409


class StaleDevices(Refused):
    """The device list of the message differs from the conversation's; seal again and retry."""

    code, retryable, http_status = "stale_devices", True, 409

    def __init__(self, missing: Sequence[str], extra: Sequence[str]) -> None:
        super().__init__("the device list has changed; fetch it, seal again, keep the key")
        self.missing, self.extra = tuple(missing), tuple(extra)

    def data(self) -> dict[str, Any]:
        return {"missing": list(self.missing), "extra": list(self.extra)}


class EpochChanged(Refused):
    """The conversation was restored to another history; resume with a full sync."""

    code, http_status = "epoch_changed", 409


class Gone(Refused):
    """The messages asked for were purged; the oldest kept is `floor`."""

    code, http_status = "gone", 410

    def __init__(self, floor: int) -> None:
        super().__init__(f"the oldest kept message is {floor}")
        self.floor = floor

    def data(self) -> dict[str, Any]:
        return {"floor": self.floor}


class Conflict(Refused):
    """Another writer changed the record first; read again and decide again."""

    code, http_status = "conflict", 409


class Fenced(Refused):
    """A newer owner holds the lease; stop working on what it covers."""

    code, http_status = "fenced", 409


class LeaseTaken(Refused):
    """Another owner holds the lease. `renewal` names when it was renewed last, for whoever
    watches whether it still is."""

    code, retryable, http_status = "lease_taken", True, 409

    def __init__(
        self, message: str = "another owner holds the lease", renewal: str = ""
    ) -> None:
        super().__init__(message)
        self.renewal = renewal


class OutcomeUnknown(Refused):
    """A tool that may run only once was interrupted; nobody can tell whether it took effect."""

    code, http_status = "outcome_unknown", 409


class OverBudget(Refused):
    """A turn, a person or a day has used up what it may; raise the budget or ask for less."""

    code, http_status = "over_budget", 402


class TurnOverBudget(OverBudget):
    """One turn has used what one turn may; raise its budget or ask for less at once."""

    code = "turn_over_budget"


class SchemaBroken(Refused):
    """A tool does not keep to the JSON schema it declares; tell who runs its server."""

    code, http_status = "schema_broken", 502


class Replaced(Refused):
    """A newer connection of the same device took over."""

    code, http_status, close_code = "replaced", 409, 4409


# --- try again later ----------------------------------------------------------------------


class Unavailable(AngariumError):
    """A component is slow or gone; nothing was lost, try again after `after_ms`."""

    code, retryable, http_status, close_code = "unavailable", True, 503, 4013

    def __init__(self, sentence: str = "try again later", after_ms: int = 1000) -> None:
        super().__init__(sentence)
        self.after_ms = after_ms

    def data(self) -> dict[str, Any]:
        return {"after_ms": self.after_ms}


class RateLimited(Unavailable):
    """The principal is over its rate; try again after `after_ms`."""

    code, http_status, close_code = "rate_limited", 429, 4029


class Busy(Unavailable):
    """A bounded queue is full; try again after `after_ms`."""

    code, http_status = "busy", 429


class SlowConsumer(Unavailable):
    """The peer reads slower than its conversations grow; reconnect and resume."""

    code, close_code = "slow_consumer", 4008


# --- who is asking ------------------------------------------------------------------------


class Unauthenticated(AngariumError):
    """The token or signature is missing or wrong."""

    code, http_status, close_code = "bad_token", 401, 4401


class TokenExpired(Unauthenticated):
    """The token was valid once; authenticate again and reconnect."""

    code, close_code = "token_expired", 4101


class BadSignature(Unauthenticated):
    """A webhook's signature does not match its bytes; nothing was parsed."""

    code, http_status = "bad_signature", 403


# --- end to end ---------------------------------------------------------------------------


class Untrusted(AngariumError):
    """Keys or envelopes do not add up; nothing of the message is shown."""

    code, http_status = "untrusted", 400


class UnverifiedDevice(Untrusted):
    """A device is not signed by its owner's keys."""

    code = "unverified_device"


class IdentityChanged(Untrusted):
    """A user's master key differs from the one seen before; compare safety numbers."""

    code = "identity_changed"


class Undecryptable(Untrusted):
    """No session opens this ciphertext."""

    code = "undecryptable"


class EnvelopeMismatch(Untrusted):
    """What is inside the seal contradicts what the relay says outside."""

    code = "envelope_mismatch"


class RosterDiffers(EnvelopeMismatch):
    """Sealed for a device that is not known here; fetch the device lists and try once more."""


class Replayed(Untrusted):
    """This message, or a later one of the same sender, was opened before."""

    code = "replayed"


class SealBroken(Untrusted):
    """A sealed record does not open: other key, other place, or changed bytes."""

    code = "seal_broken"


# --- agents -------------------------------------------------------------------------------


class AgentFailed(AngariumError):
    """The agent gave no answer; what it did before is not undone."""

    code, http_status = "agent_error", 502


class AgentTimedOut(AgentFailed):
    """The agent took longer than its terms allow and was stopped."""

    code, http_status = "timed_out", 504


class BadReply(AgentFailed):
    """What a remote agent answered cannot be read; see that it follows its protocol."""

    code = "bad_reply"


class BadCard(BadReply):
    """A remote agent's card does not parse, names no door to use, or is not signed as it must
    be; the agent is not ready."""

    code = "bad_card"


class ReplyCutOff(BadReply):
    """A remote agent's answer stopped before its end; nothing was repeated."""

    code = "reply_cut_off"


class NoReply(BadReply):
    """A remote agent took the message and will not answer here; it must answer at once."""

    code = "no_reply"


# --- start-up -----------------------------------------------------------------------------


class Misconfigured(AngariumError):
    """The node cannot start or go on as it is set up; the sentence says what to change."""

    code = "misconfigured"


class PortInUse(Misconfigured):
    """Another process listens on the port."""

    code = "port_in_use"


class StoreUnwritable(Misconfigured):
    """The store's file or folder cannot be written; nothing acknowledged is lost."""

    code, retryable, http_status = "store_unwritable", True, 503


class DiskFull(StoreUnwritable):
    """No space is left for the store; nothing acknowledged is lost."""

    code = "disk_full"


class SchemaMismatch(Misconfigured):
    """The store was written by another version; run `angarium db migrate` or upgrade."""

    code = "schema_mismatch"


class StoreInUse(Misconfigured):
    """A node serves the store; stop it first."""

    code = "store_in_use"


class StoreNotEmpty(Misconfigured):
    """The store that is to be filled holds something else; choose an empty one."""

    code = "store_not_empty"


class UnfinishedCopy(Misconfigured):
    """The store is the target of a copy that is not done; finish it with `angarium db copy`."""

    code = "unfinished_copy"


class CopyDiffers(Misconfigured):
    """Two stores that should be the same are not; copy again from a store at rest."""

    code = "copy_differs"


class KmsUnavailable(Misconfigured):
    """The key service does not answer or the key is gone; sealed state stays closed."""

    code, retryable, http_status = "kms_unavailable", True, 503


def every_error() -> dict[str, type[AngariumError]]:
    """All error classes by code, for the reference page and its test."""
    found: dict[str, type[AngariumError]] = {}
    pending: list[type[AngariumError]] = [AngariumError]
    while pending:
        error = pending.pop()
        found.setdefault(error.code, error)
        pending.extend(error.__subclasses__())
    return found
