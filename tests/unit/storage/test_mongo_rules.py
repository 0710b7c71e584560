"""What the MongoDB adapter decides without a server."""

import importlib
import random
import sys

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from bson import ObjectId
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from angarium.clock import ManualClock
from angarium.errors import (
    DiskFull,
    KeyExpired,
    KeyReused,
    Malformed,
    Misconfigured,
    OutOfOrder,
    SchemaMismatch,
    StoreUnwritable,
    TooLarge,
    Unavailable,
)
from angarium.limits import TOMBSTONE_KEPT_S
from angarium.model.message import Accepted, NewMessage, NotAccepted
from angarium.storage.mongo.faults import translate, verdict_of
from angarium.storage.mongo.ids import Numbers
from angarium.storage.mongo.placing import Earlier, Known, Run, odd_devices, plan, settle
from angarium.storage.mongo.schema import INDEXES, SHARD_KEYS, VALIDATION

# --- schema ---


def test_every_collection_has_a_shard_key() -> None:
    assert set(INDEXES) | set(VALIDATION) <= set(SHARD_KEYS)
    assert all(SHARD_KEYS.values())


@pytest.mark.parametrize("collection", sorted(SHARD_KEYS))
def test_every_unique_index_begins_with_the_shard_key(collection: str) -> None:
    key = SHARD_KEYS[collection]
    unique = [index for index in INDEXES.get(collection, ()) if index.unique]
    assert unique or key == ("_id",) or collection == "blob_chunks"
    assert [index.fields[: len(key)] for index in unique] == [key] * len(unique)


@pytest.mark.parametrize("collection", sorted(INDEXES))
def test_index_names_are_unique_and_readable(collection: str) -> None:
    names = [index.name for index in INDEXES[collection]]
    assert len(set(names)) == len(names)
    assert all(name.startswith("by_") and "." not in name for name in names)


# --- faults ---


def bulk(code: int, place: str = "writeErrors") -> BulkWriteError:
    return BulkWriteError({"writeErrors": [], place: [{"code": code, "index": 3}]})


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (DuplicateKeyError("", 11000), "taken"),
        (bulk(11000), "taken"),
        (bulk(112), "race"),
        (OperationFailure("", 112), "race"),
        (NetworkTimeout(""), "again"),
        (AutoReconnect(""), "again"),
        (NotPrimaryError(""), "again"),
        (ServerSelectionTimeoutError(""), "again"),
        (WTimeoutError("", 64), "again"),
        (bulk(64, "writeConcernErrors"), "again"),
        (OperationFailure("", 10107), "again"),
        (OperationFailure("", 4242, {"errorLabels": ["RetryableWriteError"]}), "again"),
        (OperationFailure("", 4242), "final"),
        (InvalidOperation(""), "closed"),
        (ConfigurationError(""), "setup"),
        (OverflowError(""), "refused"),
    ],
)
def test_an_error_is_told_by_its_code_or_kind(error: Exception, verdict: str) -> None:
    assert verdict_of(error) == verdict


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (OperationFailure("", 14031), DiskFull),
        (OperationFailure("", 13), StoreUnwritable),
        (OperationFailure("", 18), StoreUnwritable),
        (OperationFailure("", 121), Malformed),
        (OperationFailure("", 85), SchemaMismatch),
        (DocumentTooLarge(""), TooLarge),
        (ConfigurationError(""), Misconfigured),
        (AutoReconnect(""), Unavailable),
        (OperationFailure("", 4242), Unavailable),
    ],
)
def test_a_foreign_error_becomes_one_of_ours(error: Exception, ours: type) -> None:
    assert type(translate(error)) is ours


def test_a_translated_error_carries_nothing_of_the_command() -> None:
    foreign = OperationFailure("secret text", 4242, {"op": {"blob": b"secret"}})
    assert "secret" not in str(translate(foreign))
    assert "4242" in str(translate(foreign))


def test_without_the_driver_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    monkeypatch.delitem(sys.modules, "angarium.storage.mongo")
    with pytest.raises(Misconfigured, match="angarium\\[cluster\\]"):
        importlib.import_module("angarium.storage.mongo")


# --- numbers ---


def test_numbers_grow_even_when_the_clock_stands_or_steps_back() -> None:
    clock = ManualClock()
    numbers = Numbers(clock, random.Random(7).getrandbits)
    drawn = [numbers.draw() for _ in range(5000)]
    clock.advance(-60)
    drawn += [numbers.draw() for _ in range(10)]
    assert drawn == sorted(set(drawn))


def test_numbers_stay_exact_in_json() -> None:
    assert Numbers(ManualClock(), random.Random(7).getrandbits).draw() < 2**53


# --- placing ---


def message(
    cs: int, device: str = "D", key: str | None = None, text: bytes = b"x"
) -> NewMessage:
    return NewMessage("c", "@a:x", device, key or f"{device}{cs}", cs, "m", {"R": text}, 0)


def earlier_of(run: Run, position: int, sequence: int, purged_ms: int = 0) -> Earlier:
    cs = run.messages[position].cs
    return Earlier(ObjectId(), sequence, cs, run.digests[position], 5, purged_ms)


def test_new_messages_get_the_next_sequences() -> None:
    run, known = Run("c", [message(1), message(1, "E"), message(2)]), Known(1, 7, 7)
    known.counters.update(D=0, E=0)
    rows = plan(run, known, {}, 9)
    assert run.results == [Accepted(1, n, 9) for n in (8, 9, 10)]
    assert [row.document["seq"] for row in rows] == [8, 9, 10]
    assert known.head == 7, "nothing is known before the store has answered"
    settle(run, known, rows, 3)
    assert (known.head, known.counters, run.done) == (10, {"D": 2, "E": 1}, True)


def test_what_follows_a_failed_row_stays_open_and_what_precedes_it_is_settled() -> None:
    run, known = Run("c", [message(1), message(2), message(2), message(3)]), Known(1, 0, 0)
    known.counters["D"] = 0
    rows = plan(run, known, {}, 9)
    settle(run, known, rows, 1)
    assert (run.settled, known.head, known.counters) == (1, 1, {"D": 1})
    known.head = 5  # Somebody else took 2 to 5.
    rows = plan(run, known, {}, 10)
    settle(run, known, rows, len(rows))
    assert [(r.sequence, r.duplicate) for r in run.results if isinstance(r, Accepted)] == [
        (1, False), (6, False), (6, True), (7, False),
    ]  # fmt: skip


def test_an_insert_of_ours_that_nobody_confirmed_is_no_duplicate() -> None:
    run, known = Run("c", [message(1)]), Known(1, 1, 0)
    known.counters["D"] = 1
    own = Earlier(run.ids[0], 1, 1, run.digests[0], 5)
    assert plan(run, known, {("D", "D1"): own}, 9) == []
    assert run.results == [Accepted(1, 1, 5)]
    assert plan(run, known, {("D", "D1"): earlier_of(run, 0, 1)}, 9) == []
    assert run.results == [Accepted(1, 1, 5, duplicate=True)]


def test_what_follows_a_message_that_another_node_just_stored_is_the_next_one() -> None:
    run, known = Run("c", [message(2), message(3)]), Known(1, 1, 1, {"D": 1})
    # Its counter was read before the other node stored it, its key after.
    rows = plan(run, known, {("D", "D2"): earlier_of(run, 0, 2)}, 9)
    assert [row.document["cs"] for row in rows] == [3]
    assert [type(result) for result in run.results] == [Accepted, Accepted]


def test_refusals_say_why() -> None:
    run = Run("c", [message(5), message(0), message(2, key="new"), message(1)])
    known = Known(1, 3, 3, {"D": 3})
    gone = earlier_of(run, 3, 1, purged_ms=1)
    plan(run, known, {("D", "D1"): gone}, TOMBSTONE_KEPT_S * 1000 + 2)
    errors = [type(r.error) for r in run.results if isinstance(r, NotAccepted)]
    assert errors == [OutOfOrder, OutOfOrder, KeyExpired, KeyExpired]


def test_a_key_with_other_content_is_reused() -> None:
    run, known = Run("c", [message(1, text=b"other")]), Known(1, 1, 1, {"D": 1})
    first = Run("c", [message(1)])
    plan(run, known, {("D", "D1"): earlier_of(first, 0, 1)}, 9)
    (result,) = run.results
    assert isinstance(result, NotAccepted)
    assert isinstance(result.error, KeyReused)


def test_only_devices_whose_counters_do_not_simply_go_on_are_looked_up() -> None:
    known = Known(1, 9, 9, {"D": 4, "E": 2})
    batch = [message(5), message(6), message(2, "E"), message(1, "F")]
    assert odd_devices(known, batch) == {"E", "F"}


def test_an_open_run_can_be_refused_as_a_whole() -> None:
    run = Run("c", [message(1), message(2)])
    run.refuse(NotAccepted(Unavailable()))
    assert run.done
    assert run.top == 0
