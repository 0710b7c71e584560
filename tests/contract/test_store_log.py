import asyncio
import random
from typing import Any

import pytest
from msgspec.structs import replace

from angarium.errors import KeyExpired, KeyReused, NotFound, OutOfOrder
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId, uuid7
from angarium.limits import TOMBSTONE_KEPT_S
from angarium.model.conversation import Head, Participant
from angarium.model.message import Accepted, NewMessage, NotAccepted, StoredMessage

CONVERSATION = "01900000-0000-7000-8000-000000000001"
OTHER = "01900000-0000-7000-8000-000000000002"
ANNA, BEN = "@anna:angarium", "@ben:angarium"
PHONE, LAPTOP, TABLET = "ANNAPHONE1", "BENLAPTOP1", "BENTABLET1"


def key_of(device: str, cs: int) -> str:
    return uuid7(1_790_000_000_000 + cs, lambda n: f"{device}{cs:04}".encode()[-n:].rjust(n))


def message(
    cs: int,
    *,
    device: str = PHONE,
    key: str | None = None,
    text: bytes = b"sealed",
    conversation: str = CONVERSATION,
) -> NewMessage:
    return NewMessage(
        conversation=ConversationId(conversation),
        sender=UserId(ANNA if device == PHONE else BEN),
        device=DeviceId(device),
        key=MessageKey(key or key_of(device, cs)),
        cs=cs,
        kind="message",
        to={
            DeviceId(LAPTOP): text + b" for laptop",
            DeviceId(TABLET): text + b" for tablet",
        },
        sent_ms=5,
    )


async def converse(opened: Any, *conversations: str) -> None:
    for conversation in conversations or (CONVERSATION,):
        await opened.store.conversations.create(
            conversation, [Participant(UserId(user), "person") for user in (ANNA, BEN)], 7
        )


def sequences(results: list[Any]) -> list[int]:
    assert all(isinstance(result, Accepted) for result in results), results
    return [result.sequence for result in results]


def errors(results: list[Any]) -> list[type]:
    return [type(r.error) if isinstance(r, NotAccepted) else type(r) for r in results]


def test_messages_get_dense_sequences_from_one_in_the_order_of_the_batch(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        batch = [message(cs) for cs in range(1, 301)]
        assert sequences(await opened.store.log.append(batch)) == list(range(1, 301))
        read = await opened.store.log.read(CONVERSATION, LAPTOP, 1, 300, 1000)
        assert [entry.cs for entry in read] == list(range(1, 301))
        assert [entry.sequence for entry in read] == list(range(1, 301))

    with_store(scenario)


def test_what_is_read_is_what_was_sent_to_that_device_only(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        opened.clock.advance(3)
        sent = message(1)
        await opened.store.log.append([sent])
        (entry,) = await opened.store.log.read(CONVERSATION, LAPTOP, 1, 1, 10)
        assert (entry.key, entry.sender, entry.device, entry.cs, entry.kind) == (
            sent.key, ANNA, PHONE, 1, "message",
        )  # fmt: skip
        assert entry.accepted_ms == opened.clock.now_ms()
        # Plain values only: what a driver's own class holds cannot be put into a frame.
        assert all(type(n) is int for n in (entry.accepted_ms, entry.sequence, entry.cs))
        assert entry.to == {LAPTOP: b"sealed for laptop"}
        (entry,) = await opened.store.log.read(CONVERSATION, PHONE, 1, 1, 10)
        assert entry.to == {}

    with_store(scenario)


def test_a_range_is_read_in_order_and_no_longer_than_asked(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(cs) for cs in range(1, 11)])
        read = opened.store.log.read
        assert [e.sequence for e in await read(CONVERSATION, LAPTOP, 4, 8, 3)] == [4, 5, 6]
        assert [e.sequence for e in await read(CONVERSATION, LAPTOP, 9, 99, 50)] == [9, 10]
        assert await read(CONVERSATION, LAPTOP, 11, 20, 50) == []
        assert await read(OTHER, LAPTOP, 1, 20, 50) == []

    with_store(scenario)


def test_conversations_count_apart_within_one_batch(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened, CONVERSATION, OTHER)
        results = await opened.store.log.append(
            [message(1), message(1, conversation=OTHER), message(2), message(1, device=LAPTOP)]
        )
        assert sequences(results) == [1, 1, 2, 3]

    with_store(scenario)


def test_a_retry_gets_the_first_result_and_stores_nothing(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        (first,) = await opened.store.log.append([message(1)])
        await opened.store.log.append([message(2)])
        opened.clock.advance(25 * 3600)
        for log in (opened.store.log, opened.other.log):
            (again,) = await log.append([message(1)])
            assert again == Accepted(first.epoch, 1, first.accepted_ms, duplicate=True)
        heads = await opened.store.log.heads([CONVERSATION])
        assert heads[CONVERSATION].sequence == 2

    with_store(scenario)


def test_a_retry_within_the_same_batch_is_a_duplicate_too(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        results = await opened.store.log.append(
            [message(1), message(1), message(2), message(1), message(2)]
        )
        assert sequences(results) == [1, 1, 2, 1, 2]
        assert [result.duplicate for result in results] == [False, True, False, True, True]

    with_store(scenario)


@pytest.mark.parametrize("cs", [1, 2, 3])
def test_a_key_names_one_message_for_ever(with_store: Any, cs: int) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1), message(2)])
        reused = message(cs, key=message(1).key, text=b"other")
        assert errors(await opened.store.log.append([reused])) == [KeyReused]
        assert sequences(await opened.store.log.append([message(3)])) == [3]

    with_store(scenario)


def test_a_reused_key_spoils_no_neighbour_in_its_batch(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened, CONVERSATION, OTHER)
        await opened.store.log.append([message(1)])
        results = await opened.store.log.append(
            [
                message(2),
                message(3, key=message(1).key, text=b"other"),
                message(1, device=LAPTOP),
                message(1, conversation=OTHER),
                message(3),
            ]
        )
        assert errors(results) == [Accepted, KeyReused, Accepted, Accepted, Accepted]
        accepted = [r.sequence for r in results if isinstance(r, Accepted)]
        assert accepted == [2, 3, 1, 4]

    with_store(scenario)


def test_two_devices_may_choose_the_same_key(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        batch = [message(1, key="k"), message(1, key="k", device=LAPTOP)]
        assert sequences(await opened.store.log.append(batch)) == [1, 2]
        (first, _) = await opened.store.log.read(CONVERSATION, LAPTOP, 1, 2, 2)
        assert first.key == "k"

    with_store(scenario)


def test_a_message_without_its_predecessor_is_refused_and_told_where_to_go_on(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        results = await opened.store.log.append(
            [message(2), message(1), message(3), message(2)]
        )
        assert errors(results) == [OutOfOrder, Accepted, OutOfOrder, Accepted]
        refused = [r.error for r in results if isinstance(r, NotAccepted)]
        assert [error.data()["expect_cs"] for error in refused] == [1, 2]
        assert errors(await opened.store.log.append([message(0)])) == [OutOfOrder]

    with_store(scenario)


def test_a_new_key_for_an_old_counter_is_expired_never_a_second_copy(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1), message(2)])
        assert errors(await opened.store.log.append([message(1, key="new")])) == [KeyExpired]
        assert (await opened.store.log.heads([CONVERSATION]))[CONVERSATION].sequence == 2

    with_store(scenario)


def test_an_unknown_conversation_is_not_found_and_spoils_no_neighbour(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        results = await opened.store.log.append([message(1, conversation=OTHER), message(1)])
        assert errors(results) == [NotFound, Accepted]
        assert await opened.store.log.append([]) == []

    with_store(scenario)


def test_two_nodes_that_write_in_turn_stay_dense_and_ordered(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        for cs in range(1, 21):
            log = (opened.store if cs % 2 else opened.other).log
            assert sequences(await log.append([message(cs)])) == [2 * cs - 1]
            assert sequences(await opened.other.log.append([message(cs, device=LAPTOP)])) == [
                2 * cs
            ]

    with_store(scenario)


def test_what_a_node_learns_from_another_leaves_the_log_dense_whatever_it_is(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        one, other = opened.store.log, opened.other.log
        await other.append([message(1)])
        await one.append([message(2), message(3)])
        told = await one.read(CONVERSATION, LAPTOP, 1, 3, 3)
        assert isinstance(told[2], StoredMessage)
        other.learn([told[2]])  # Its forerunner was not heard.
        other.learn([replace(told[1], epoch=99), replace(told[1], sequence=17)])
        assert sequences(await other.append([message(1, device=LAPTOP)])) == [4]
        other.learn(told)
        assert sequences(await other.append([message(4)])) == [5]
        (again,) = await other.append([message(3)])
        assert (again.sequence, again.duplicate) == (3, True)
        (early,) = await other.append([message(6)])
        assert isinstance(early.error, OutOfOrder)

    with_store(scenario)


def test_many_senders_at_once_on_two_nodes_with_retries_leave_one_dense_log(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        devices = [f"DEVICE{n:04}" for n in range(12)]
        seen: dict[tuple[str, int], int] = {}
        dice = random.Random(7)

        async def send(device: str) -> None:
            for cs in range(1, 9):
                for attempt in range(dice.randint(1, 3)):
                    log = dice.choice([opened.store, opened.other]).log
                    (result,) = await log.append([message(cs, device=device)])
                    assert isinstance(result, Accepted)
                    assert result.duplicate == (attempt > 0)
                    assert seen.setdefault((device, cs), result.sequence) == result.sequence

        await asyncio.gather(*(send(device) for device in devices))
        assert sorted(seen.values()) == list(range(1, 97))
        read = await opened.other.log.read(CONVERSATION, LAPTOP, 1, 200, 200)
        assert [entry.sequence for entry in read] == list(range(1, 97))
        for device in devices:
            assert [e.cs for e in read if e.device == device] == list(range(1, 9))

    with_store(scenario)


def test_the_same_request_ten_times_at_once_is_stored_once(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        logs = [opened.store.log, opened.other.log] * 5
        answers = await asyncio.gather(*(log.append([message(1)]) for log in logs))
        results = [result for (result,) in answers]
        assert sequences(results) == [1] * 10
        assert sorted(result.duplicate for result in results) == [False] + [True] * 9

    with_store(scenario)


def test_heads_name_existing_conversations_only(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened, CONVERSATION, OTHER)
        await opened.store.log.append([message(1)])
        heads = await opened.other.log.heads([CONVERSATION, OTHER, "missing"])
        assert heads == {CONVERSATION: Head(1, 1), OTHER: Head(1, 0)}

    with_store(scenario)


def test_the_last_counter_is_known_per_device(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1), message(2), message(1, device=LAPTOP)])
        last_cs = opened.other.log.last_cs
        assert [await last_cs(CONVERSATION, d) for d in (PHONE, LAPTOP, TABLET)] == [2, 1, 0]
        assert await last_cs(OTHER, PHONE) == 0

    with_store(scenario)


def test_purged_messages_keep_their_place_and_lose_their_content(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(cs) for cs in range(1, 6)])
        assert await opened.store.log.purge(CONVERSATION, 3) == 3
        assert await opened.store.log.purge(CONVERSATION, 3) == 0
        read = await opened.store.log.read(CONVERSATION, LAPTOP, 1, 5, 5)
        assert [(e.sequence, e.kind, bool(e.to)) for e in read] == [
            (1, "void", False), (2, "void", False), (3, "void", False),
            (4, "message", True), (5, "message", True),
        ]  # fmt: skip
        assert (await opened.store.log.heads([CONVERSATION]))[CONVERSATION] == Head(1, 5, 4)

    with_store(scenario)


def test_the_sequence_never_restarts_even_when_all_is_purged(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1), message(2)])
        assert await opened.store.log.purge(CONVERSATION, 99) == 2
        assert (await opened.other.log.heads([CONVERSATION]))[CONVERSATION] == Head(1, 2, 3)
        assert sequences(await opened.other.log.append([message(3)])) == [3]

    with_store(scenario)


def test_a_purged_key_is_a_duplicate_while_its_tombstone_lives_then_expired(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        await converse(opened)
        await opened.store.log.append([message(1), message(2)])
        await opened.store.log.purge(CONVERSATION, 1)
        opened.clock.advance(TOMBSTONE_KEPT_S - 1)
        (again,) = await opened.store.log.append([message(1)])
        assert (again.sequence, again.duplicate) == (1, True)
        opened.clock.advance(2)
        assert errors(await opened.store.log.append([message(1)])) == [KeyExpired]
        assert errors(await opened.other.log.append([message(2)])) == [Accepted]
        assert sequences(await opened.store.log.append([message(3)])) == [3]

    with_store(scenario)


@pytest.mark.parametrize("hours", [23, 25, 7 * 24])
@pytest.mark.parametrize("purged", [False, True], ids=["kept", "purged"])
def test_a_retry_much_later_never_makes_a_second_copy(
    with_store: Any, hours: int, purged: bool
) -> None:
    """Row 13 of the matrix: the key of a message lives with the message, not for a day."""

    async def scenario(opened: Any) -> None:
        await converse(opened)
        first = await opened.store.log.append([message(1), message(2)])
        opened.clock.advance(hours * 1800)
        if purged:
            assert await opened.other.log.purge(CONVERSATION, 2) == 2
        opened.clock.advance(hours * 1800)
        for node in (opened.store, opened.other):
            again = await node.log.append([message(1), message(2)])
            assert [(r.sequence, r.duplicate) for r in again] == [(1, True), (2, True)]
            assert [r.accepted_ms for r in again] == [r.accepted_ms for r in first]
            with_other_content = await node.log.append([message(2, text=b"other")])
            assert errors(with_other_content) == [KeyReused]
        assert (await opened.store.log.heads([CONVERSATION]))[CONVERSATION].sequence == 2
        assert sequences(await opened.other.log.append([message(3)])) == [3]

    with_store(scenario)


def test_purging_an_unknown_conversation_is_not_found(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        with pytest.raises(NotFound):
            await opened.store.log.purge(OTHER, 1)

    with_store(scenario)
