"""Events as bytes: what one version says another may pass over, never choke on."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.bus.contract import (
    Appended,
    DevicesChanged,
    Displaced,
    Ephemeral,
    Event,
    Joined,
    Left,
)
from angarium.bus.wire import pack_batch, pack_event, topic_of, unpack_batch
from angarium.model.message import StoredMessage

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
users = st.lists(text, max_size=5).map(tuple)
events = st.one_of(
    st.builds(Appended, text, st.integers(0, 2**40), st.integers(0, 2**53), users),
    st.builds(Ephemeral, text, users, st.binary(max_size=200), st.none() | text),
    st.builds(DevicesChanged, text),
    st.builds(Joined, text, text),
    st.builds(Left, text, text),
    st.builds(Displaced, text, text, st.integers(0, 2**53)),
)


def test_every_kind_of_event_is_tried() -> None:
    assert len(Event.__args__) == 6


@given(st.lists(events, max_size=20), st.binary(max_size=20))
def test_a_batch_arrives_as_it_was_packed(batch: list[Event], sender: bytes) -> None:
    payload = pack_batch(sender, [pack_event(event) for event in batch])

    assert unpack_batch(payload) == (sender, batch, 0)


@given(st.binary(max_size=300))
def test_foreign_bytes_raise_nothing(payload: bytes) -> None:
    unpack_batch(payload)


@given(events, st.data())
def test_a_damaged_batch_raises_nothing(event: Event, data: st.DataObject) -> None:
    payload = bytearray(pack_batch(b"me", [pack_event(event)]))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] = data.draw(st.integers(0, 255))

    unpack_batch(bytes(payload))


def test_events_of_a_newer_version_are_passed_over_and_counted() -> None:
    newer = msgspec.msgpack.encode(("zz", "something", 1))
    longer = msgspec.msgpack.encode(("d", "@ann:test", "a field of a newer version"))
    payload = pack_batch(b"newer", [newer, longer, pack_event(Left("c", "u"))])

    assert unpack_batch(payload) == (
        b"newer",
        [DevicesChanged("@ann:test"), Left("c", "u")],
        1,
    )


def test_a_doorbell_carries_its_messages_and_one_of_an_older_version_has_none() -> None:
    message = StoredMessage("c", 3, 7, "k", "@ann:test", "ANN1", 5, "message", 99, {"B": b"x"})
    told = Appended("c", 3, 7, ("@ann:test",), (message,))

    _, (heard,), _ = unpack_batch(pack_batch(b"s", [pack_event(told)]))
    assert isinstance(heard, Appended)
    assert heard.messages == (message,)

    older = msgspec.msgpack.encode(["a", "c", 3, 7, ["@ann:test"]])
    _, (heard,), _ = unpack_batch(pack_batch(b"s", [older]))
    assert heard == Appended("c", 3, 7, ("@ann:test",))
    assert heard.messages == ()


def test_text_that_is_none_cannot_be_packed() -> None:
    with pytest.raises(ValueError):
        pack_event(DevicesChanged("\ud800"))


@given(st.integers(1, 64), text, text)
def test_events_of_one_conversation_share_a_topic(topics: int, talk: str, user: str) -> None:
    said = [Appended(talk, 1, 2, (user,)), Ephemeral(talk, (), b""), Joined(talk, user)]

    assert len({topic_of(event, topics) for event in said}) == 1
    assert topic_of(said[0], topics) in range(topics)


def test_conversations_spread_over_the_topics() -> None:
    used = {topic_of(Left(f"talk-{n}", "u"), 8) for n in range(200)}
    owners = {topic_of(DevicesChanged(f"@user{n}:test"), 8) for n in range(200)}

    assert used == owners == set(range(8))
