"""Who writes next where several nodes write to one conversation."""

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from bson import ObjectId

from angarium.ids import DeviceId
from angarium.limits import (
    MONGO_RIVAL_S,
    MONGO_STREAK_MAX,
    MONGO_STREAK_MIN,
    MONGO_YIELD_MAX_S,
)
from angarium.storage.mongo.turns import Ids, Ring

TOOK_S = 0.01


def written_by(name: str) -> ObjectId:
    return ObjectId(b"time" + name.encode() * 5 + b"num")


def ring_of(me: str, seen: str, now_s: float = 0.0) -> Ring:
    """`me` wrote first, and then saw messages of these nodes."""
    ring = Ring(me.encode() * 5)
    ring.wrote(TOOK_S)
    for name in seen:
        ring.saw(DeviceId(name), written_by(name), now_s)
    return ring


def test_ids_are_distinct_and_name_their_node() -> None:
    mine, theirs = Ids(), Ids()
    made = [mine.make() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {each.binary[4:9] for each in made} == {mine.name} != {theirs.name}
    assert abs(made[0].generation_time.timestamp() - ObjectId().generation_time.timestamp()) < 5


@pytest.mark.parametrize(
    ("me", "seen", "ahead"),
    [("A", "BC", 0), ("B", "CA", 0), ("C", "AB", 0), ("C", "BA", 1), ("A", "CB", 1)],
)
def test_the_successor_of_the_last_writer_goes_first(me: str, seen: str, ahead: int) -> None:
    assert ring_of(me, seen).pause_s(0.1) == pytest.approx(ahead * TOOK_S)


def test_who_just_wrote_lets_all_others_go_first() -> None:
    ring = ring_of("B", "AC")
    ring.wrote(TOOK_S)
    assert ring.pause_s(0.1) == pytest.approx(2 * TOOK_S)


def test_what_the_bus_tells_of_a_known_device_counts_for_its_node() -> None:
    ring = ring_of("A", "BC")
    ring.wrote(TOOK_S)
    ring.told(DeviceId("B"), 0.1)
    assert ring.pause_s(0.2) == pytest.approx(TOOK_S)  # C is next.
    ring.told(DeviceId("C"), 0.1)
    assert ring.pause_s(0.2) == 0.0


def test_a_node_that_only_the_bus_has_told_of_is_a_rival_too() -> None:
    ring = Ring(b"A" * 5)
    ring.wrote(TOOK_S)
    ring.told(DeviceId("B"), 0.0)
    ring.wrote(TOOK_S)
    assert ring.pause_s(0.1) == pytest.approx(TOOK_S)


def test_a_node_that_fell_silent_is_waited_for_no_more() -> None:
    ring = ring_of("A", "C")
    ring.saw(DeviceId("B"), written_by("B"), MONGO_RIVAL_S)
    assert ring.pause_s(MONGO_RIVAL_S - 0.001) == pytest.approx(TOOK_S)
    assert ring.pause_s(MONGO_RIVAL_S) == 0.0
    assert ring.rivals(2 * MONGO_RIVAL_S) == []


def test_nobody_waits_long_for_the_others() -> None:
    ring = ring_of("A", "B")
    ring.wrote(60.0)
    assert ring.pause_s(0.1) == MONGO_YIELD_MAX_S


def test_who_always_wins_leaves_gaps_that_grow_rarer_while_nobody_uses_them() -> None:
    ring = Ring(b"A" * 5)
    gaps = []
    for written in range(1, 8 * MONGO_STREAK_MAX):
        ring.wrote(TOOK_S)
        if ring.pause_s(0.0):
            gaps.append(written)
    streaks = [after - before for before, after in zip([0, *gaps], gaps, strict=False)]
    assert streaks[:3] == [MONGO_STREAK_MIN, 2 * MONGO_STREAK_MIN, 4 * MONGO_STREAK_MIN]
    assert set(streaks[3:]) == {MONGO_STREAK_MAX}
