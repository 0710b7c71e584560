"""What MongoDB's errors mean in our words: one table, and who may try again."""

from collections.abc import Mapping
from typing import Any, Literal

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from angarium.errors import (
    AngariumError,
    DiskFull,
    Malformed,
    Misconfigured,
    SchemaMismatch,
    StoreUnwritable,
    TooLarge,
    Unavailable,
)

Verdict = Literal[
    "taken", "race", "again", "full", "denied", "refused", "large", "schema", "setup", "closed",
    "final",
]  # fmt: skip

VERDICTS: Mapping[int, Verdict] = {
    11000: "taken", 11001: "taken", 12582: "taken",  # A unique index has this key.
    112: "race",  # A write conflict; some engines report a unique index under contention so.
    6: "again", 7: "again", 89: "again", 202: "again", 9001: "again",  # The network.
    11600: "again", 11602: "again", 91: "again",  # The server shuts or steps down.
    189: "again", 10107: "again", 10058: "again", 13435: "again", 13436: "again",  # No primary.
    50: "again", 262: "again", 24: "again", 46: "again",  # It took too long.
    64: "again", 134: "again", 133: "again", 43: "again",  # The majority is not there (yet).
    63: "again", 150: "again", 13388: "again",  # A shard has moved.
    14031: "full",
    13: "denied", 18: "denied", 8000: "denied",
    121: "refused", 2: "refused", 14: "refused",
    10334: "large", 17280: "large",
    85: "schema", 86: "schema", 67: "schema",
}  # fmt: skip
"""Codes of MongoDB's error_codes.yml. What is not here is final: trying again is no help."""


class AlreadyThere(Exception):
    """A unique index has this key. `index` is the write of the bulk that met it."""

    def __init__(self, index: int = 0) -> None:
        super().__init__("a unique index has this key")
        self.index = index


def verdict_of_code(code: int) -> Verdict:
    return VERDICTS.get(code, "final")


def verdict_of(error: Exception) -> Verdict:
    """What one of the driver's errors means. Of a bulk the first failed write counts."""
    if isinstance(error, BulkWriteError):
        return _verdict_of_bulk(error.details)
    if isinstance(error, OperationFailure):
        if error.has_error_label("RetryableWriteError") or error.timeout:
            return "again"
        return verdict_of_code(error.code or 0)
    if isinstance(error, ConnectionFailure):
        return "again"
    if isinstance(error, DocumentTooLarge):
        return "large"
    if isinstance(error, ConfigurationError):
        return "setup"
    if isinstance(error, InvalidOperation):
        return "closed"
    if isinstance(error, BSONError | OverflowError):
        return "refused"
    return "again" if isinstance(error, PyMongoError) and error.timeout else "final"


def _verdict_of_bulk(details: Mapping[str, Any]) -> Verdict:
    failed = [
        verdict_of_code(int(each.get("code", 0))) for each in details.get("writeErrors", ())
    ]
    concerns = details.get("writeConcernErrors", ())
    if concerns and (not failed or failed[0] in ("taken", "race")):
        # What went through before the failed one is not (yet) held by a majority.
        return verdict_of_code(int(concerns[0].get("code", 0)))
    return failed[0] if failed else "final"


def translate(error: Exception) -> AngariumError:
    """The product's error for one of the driver's; carries no command and no value."""
    match verdict_of(error):
        case "full":
            return DiskFull("the disk of the store is full; free space and go on")
        case "denied":
            return StoreUnwritable("the store refuses this account; check its rights")
        case "refused":
            return Malformed("the store does not take this value")
        case "large":
            return TooLarge("too large for one document of the store")
        case "schema":
            return SchemaMismatch(
                "an index of the store differs from ours: run `angarium db migrate`"
            )
        case "setup":
            return Misconfigured(
                "the address of the MongoDB store is not usable; check its URI"
            )
        case "closed":
            return Unavailable("the store is closed")
        case "taken" | "race":
            return Unavailable("too many writers at one place of the store", after_ms=200)
        case "again":
            return Unavailable("the store does not answer")
        case _:
            code = error.code if isinstance(error, OperationFailure) else None
            return Unavailable(f"the store failed ({code or type(error).__name__})")


FAILURES = (PyMongoError, BSONError, OverflowError)
"""What the driver raises. Programming errors are not among them."""
