"""The inserts of a round: ordered inside a conversation, one for many single messages."""

import asyncio
from dataclasses import dataclass

import pymongo
from pymongo.errors import BulkWriteError, OperationFailure

from angarium.errors import AngariumError
from angarium.storage.mongo.faults import FAILURES, translate, verdict_of, verdict_of_code
from angarium.storage.mongo.link import Documents
from angarium.storage.mongo.placing import Known, Row, Run


@dataclass(slots=True)
class Attempt:
    """A run with its rows, and what came of inserting them: the first `stored` are durable.
    `unsure`: some of the others may be, too. `error`: trying again is no help."""

    run: Run
    known: Known
    rows: list[Row]
    stored: int = 0
    unsure: bool = False
    error: AngariumError | None = None

    def note(self, code: int, stored: int) -> None:
        """A write failed with this code after `stored` of the rows."""
        self.stored = stored
        verdict = verdict_of_code(code)
        self.unsure = verdict == "again"
        if verdict not in ("taken", "race", "again"):
            self.error = translate(OperationFailure("", code))

    def fail(self, error: Exception) -> None:
        """The whole insert failed."""
        self.stored, self.unsure = 0, True
        if verdict_of(error) not in ("taken", "race", "again"):
            self.error = translate(error)


async def insert(messages: Documents, attempts: list[Attempt], left_s: float) -> None:
    """Insert every row and note in each attempt what came of it. Raises nothing of the
    driver's; takes at most `left_s`."""
    several = [each for each in attempts if len(each.rows) > 1]
    singles = [each for each in attempts if len(each.rows) == 1]
    work = [_insert_run(messages, each, left_s) for each in several]
    if singles:
        work.append(_insert_singles(messages, singles, left_s))
    await asyncio.gather(*work)


async def _insert_run(messages: Documents, attempt: Attempt, left_s: float) -> None:
    documents = [row.document for row in attempt.rows]
    try:
        with pymongo.timeout(max(0.01, left_s)):
            await messages.insert_many(documents, ordered=True)
        attempt.stored = len(documents)
    except BulkWriteError as error:
        failed, concerns = _failures(error)
        if concerns:
            # Written, but not (yet) by a majority: as if nothing were known.
            attempt.note(concerns[0], 0)
        else:
            code, index = failed[0]
            attempt.note(code, index)
    except FAILURES as error:
        attempt.fail(error)


async def _insert_singles(messages: Documents, attempts: list[Attempt], left_s: float) -> None:
    """One message each of several conversations: none waits for another."""
    documents = [each.rows[0].document for each in attempts]
    try:
        with pymongo.timeout(max(0.01, left_s)):
            await messages.insert_many(documents, ordered=False)
        for each in attempts:
            each.stored = 1
    except BulkWriteError as error:
        failed, concerns = _failures(error)
        for each in attempts:
            each.stored = 1
            if concerns:
                each.note(concerns[0], 0)
        for code, index in failed:
            attempts[index].note(code, 0)
    except FAILURES as error:
        if len(attempts) > 1 and verdict_of(error) in ("refused", "large"):
            # One of them cannot even be sent: find out which, and spare its neighbours.
            await asyncio.gather(*(_insert_run(messages, each, left_s) for each in attempts))
            return
        for each in attempts:
            each.fail(error)


def _failures(error: BulkWriteError) -> tuple[list[tuple[int, int]], list[int]]:
    """(code, index) of each write that failed, and the codes of failed write concerns."""
    failed = error.details.get("writeErrors") or []
    concerns = error.details.get("writeConcernErrors") or []
    return [(each["code"], each["index"]) for each in failed], [
        each["code"] for each in concerns
    ]
