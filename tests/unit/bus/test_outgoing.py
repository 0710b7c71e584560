"""What waits to be published is bounded; what is forgotten is counted."""

from angarium.bus.outgoing import Outgoing, Waiting
from angarium.limits import BUS_BATCH_BYTES_MAX, BUS_BATCH_EVENTS


def event(n: int, *, once: bool = False, size: int = 1) -> Waiting:
    return Waiting(n, b"x" * size, once)


def filled(outgoing: Outgoing, *events: Waiting) -> Outgoing:
    for each in events:
        outgoing.put(each)
    return outgoing


def taken(outgoing: Outgoing) -> list[int]:
    found: list[int] = []
    while batch := outgoing.take():
        found += [each.topic for each in batch]
    return found


def test_first_in_is_first_out() -> None:
    assert taken(filled(Outgoing(), *map(event, range(5)))) == [0, 1, 2, 3, 4]


def test_over_the_number_the_oldest_go() -> None:
    outgoing = filled(Outgoing(events_max=3), *map(event, range(5)))

    assert outgoing.dropped == 2
    assert taken(outgoing) == [2, 3, 4]


def test_over_the_bytes_the_oldest_go() -> None:
    outgoing = filled(Outgoing(bytes_max=10), *(event(n, size=4) for n in range(4)))

    assert outgoing.dropped == 2
    assert taken(outgoing) == [2, 3]


def test_bytes_taken_count_no_more() -> None:
    outgoing = Outgoing(bytes_max=10)
    for n in range(100):
        outgoing.put(event(n, size=9))
        assert [each.topic for each in outgoing.take()] == [n]

    assert outgoing.dropped == 0


def test_an_event_over_every_bound_is_dropped() -> None:
    outgoing = filled(Outgoing(bytes_max=10), event(1, size=11))

    assert (len(outgoing), outgoing.dropped) == (0, 1)


def test_a_batch_is_bounded_in_number_and_bytes() -> None:
    many = filled(Outgoing(), *map(event, range(BUS_BATCH_EVENTS + 1)))
    assert [len(many.take()), len(many.take())] == [BUS_BATCH_EVENTS, 1]

    half = BUS_BATCH_BYTES_MAX // 2
    large = filled(Outgoing(), *(event(n, size=half) for n in range(3)))
    assert [len(large.take()), len(large.take())] == [2, 1]


def test_an_event_larger_than_a_batch_goes_alone() -> None:
    outgoing = filled(Outgoing(), event(1, size=BUS_BATCH_BYTES_MAX + 1), event(2))

    assert [each.topic for each in outgoing.take()] == [1]


def test_what_could_not_be_said_waits_in_front() -> None:
    outgoing = filled(Outgoing(), event(1), event(2))
    batch = outgoing.take()
    outgoing.put(event(3))
    outgoing.put_back(batch)

    assert taken(outgoing) == [1, 2, 3]


def test_what_has_one_chance_is_dropped_after_a_failure() -> None:
    outgoing = filled(Outgoing(), event(1, once=True), event(2))
    batch = outgoing.take()
    outgoing.put(event(3, once=True))
    outgoing.put_back(batch)

    assert outgoing.dropped == 2
    assert taken(outgoing) == [2]


def test_what_is_put_back_is_bounded_too() -> None:
    outgoing = filled(Outgoing(events_max=2), event(1), event(2))
    batch = outgoing.take()
    filled(outgoing, event(3), event(4))
    outgoing.put_back(batch)

    assert outgoing.dropped == 2
    assert taken(outgoing) == [3, 4]
