"""What a node remembers of the newest messages, and how it packs frames."""

from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.limits import RECENT_MESSAGES
from angarium.messaging.history import Recent, weight_bytes
from angarium.model.message import StoredMessage
from angarium.protocol.codec import MsgpackCodec, messages_of
from angarium.protocol.frames import Pong

DEVICE = DeviceId("DEVICE")


def message(sequence: int, c: str = "c", size: int = 10, epoch: int = 1) -> StoredMessage:
    return StoredMessage(
        ConversationId(c),
        epoch,
        sequence,
        MessageKey("k"),
        UserId("@a:test"),
        DEVICE,
        sequence,
        "msg",
        0,
        {DEVICE: b"x" * size},
    )


def recent_of(*sequences: int, bytes_max: int = 10**6) -> Recent:
    recent = Recent(bytes_max)
    for sequence in sequences:
        recent.add(message(sequence))
    return recent


def run(recent: Recent, first: int, count: int = 99, c: str = "c") -> list[int]:
    return [each.sequence for each in recent.run(c, first, count)]


def test_a_run_starts_where_asked_and_has_no_hole() -> None:
    recent = recent_of(5, 6, 7)

    assert run(recent, 6) == [6, 7]
    assert run(recent, 5, 2) == [5, 6]
    assert run(recent, 4) == []
    assert run(recent, 8) == []
    assert run(recent, 1, c="unknown") == []


def test_a_hole_makes_what_was_before_useless() -> None:
    assert run(recent_of(5, 6, 9), 5) == []
    assert run(recent_of(5, 6, 9), 9) == [9]


def test_an_old_message_changes_nothing() -> None:
    assert run(recent_of(5, 6, 5), 5) == [5, 6]


def test_another_epoch_starts_anew() -> None:
    recent = recent_of(5, 6)
    recent.add(message(2, epoch=2))

    assert run(recent, 5) == []
    assert run(recent, 2) == [2]


def test_only_the_newest_of_a_conversation_are_remembered() -> None:
    recent = recent_of(*range(1, RECENT_MESSAGES + 6))

    assert run(recent, 5) == []
    assert len(run(recent, 6)) == RECENT_MESSAGES
    assert recent.held_bytes == RECENT_MESSAGES * weight_bytes(message(1))


def test_the_quietest_conversation_is_forgotten_first() -> None:
    room = 3 * weight_bytes(message(1))
    recent = Recent(room)
    for c in ("a", "b", "c"):
        recent.add(message(1, c))
    recent.add(message(2, "a"))

    assert run(recent, 1, c="a") == [1, 2]
    assert run(recent, 1, c="b") == []
    assert recent.held_bytes <= room


def test_forgetting_frees_the_memory() -> None:
    recent = recent_of(1, 2)
    recent.forget("c")

    assert (run(recent, 1), recent.held_bytes) == ([], 0)


def test_frames_are_packed_within_the_limits_of_a_message_and_keep_their_order() -> None:
    codec = MsgpackCodec()
    frames = [Pong(n) for n in range(150)]
    packed = messages_of(codec, [codec.encode([frame]) for frame in frames])

    assert [len(codec.decode_server(payload)) for payload in packed] == [64, 64, 22]
    assert [frame for payload in packed for frame in codec.decode_server(payload)] == frames


def test_large_frames_travel_alone() -> None:
    codec = MsgpackCodec()
    packed = messages_of(codec, [b"x" * 200_000, b"y" * 200_000, b"z" * 300_000])

    assert [len(payload) for payload in packed] == [200_000, 200_000, 300_000]
    assert messages_of(codec, []) == []
