import asyncio
from typing import Any

import pytest

from angarium.errors import Forbidden, NotFound
from angarium.ids import DeviceId, UserId
from angarium.model.conversation import Participant
from angarium.model.device import Device, IdentityKeys

ANNA, BEN, CARA = map(UserId, ("@anna:angarium", "@ben:angarium", "@cara:angarium"))
FIRST, SECOND, THIRD = "c-1", "c-2", "c-3"


def people(*users: UserId) -> list[Participant]:
    return [Participant(user, "person") for user in users]


def device(
    name: str = "ANNAPHONE1", user: UserId = ANNA, *, key: str = "k", signed: bool = True
) -> Device:
    keys = {"user_id": user, "keys": {f"ed25519:{name}": key}, "signatures": {}}
    return Device(user, DeviceId(name), "web", keys, signed, 5)


# --- conversations ---


def test_a_conversation_is_created_once_and_then_returned_unchanged(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        made = await opened.store.conversations.create(FIRST, people(ANNA, BEN), 7)
        assert (made.id, made.epoch, made.created_ms) == (FIRST, 1, 7)
        assert made.participants == tuple(people(ANNA, BEN))
        assert await opened.other.conversations.create(FIRST, people(CARA), 9) == made
        assert await opened.other.conversations.find(FIRST) == made
        assert await opened.store.conversations.find(SECOND) is None

    with_store(scenario)


def test_the_conversation_between_users_is_the_oldest_of_exactly_these(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        conversations = opened.store.conversations
        await conversations.create(FIRST, people(ANNA, BEN, CARA), 1)
        await conversations.create(THIRD, people(BEN, ANNA), 3)
        await conversations.create(SECOND, people(ANNA, BEN), 2)
        found = await conversations.find_between([BEN, ANNA])
        assert found.id == SECOND
        assert (await conversations.find_between([ANNA, BEN, CARA])).id == FIRST
        assert await conversations.find_between([ANNA, CARA]) is None
        assert await conversations.find_between([ANNA]) is None

    with_store(scenario)


def test_conversations_of_a_user_come_oldest_first(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        conversations = opened.store.conversations
        await conversations.create(SECOND, people(ANNA, CARA), 20)
        await conversations.create(FIRST, people(ANNA, BEN), 10)
        await conversations.create(THIRD, people(BEN, CARA), 30)
        assert [c.id for c in await conversations.list_of(ANNA)] == [FIRST, SECOND]
        assert (await conversations.list_of(ANNA))[1].participants == tuple(people(ANNA, CARA))
        assert await conversations.list_of("@nobody:angarium") == []

        lists = await conversations.lists_of({ANNA, CARA, "@nobody:angarium"})
        assert {user: [c.id for c in each] for user, each in lists.items()} == {
            ANNA: [FIRST, SECOND],
            CARA: [SECOND, THIRD],
            "@nobody:angarium": [],
        }
        assert lists[CARA][0].participants == tuple(people(ANNA, CARA))
        assert await conversations.lists_of([]) == {}

    with_store(scenario)


def test_participants_come_and_go_and_repeating_it_changes_nothing(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        conversations = opened.store.conversations
        await conversations.create(FIRST, people(ANNA), 1)
        for _ in range(2):
            grown = await conversations.add(FIRST, Participant(BEN, "agent"))
            assert grown.participants == (*people(ANNA), Participant(BEN, "agent"))
        for _ in range(2):
            assert (await conversations.remove(FIRST, ANNA)).participants == (
                Participant(BEN, "agent"),
            )
        assert await conversations.list_of(ANNA) == []

    with_store(scenario)


def test_an_unknown_conversation_has_no_participants_to_change(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        with pytest.raises(NotFound):
            await opened.store.conversations.add(FIRST, Participant(BEN, "agent"))
        with pytest.raises(NotFound):
            await opened.store.conversations.remove(FIRST, BEN)

    with_store(scenario)


# --- receipts ---


def test_receipts_only_move_forward(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.conversations.create(FIRST, people(ANNA, BEN), 1)
        receipts = opened.store.receipts
        await receipts.fold([(FIRST, ANNA, "delivered", 5), (FIRST, ANNA, "read", 3)])
        await opened.other.receipts.fold(
            [(FIRST, ANNA, "delivered", 4), (FIRST, ANNA, "read", 4), (FIRST, BEN, "read", 1)]
        )
        await receipts.fold([(FIRST, BEN, "read", 9), (FIRST, BEN, "read", 2)])
        await receipts.fold([])
        assert await receipts.list_of(FIRST) == {
            (ANNA, "delivered"): 5,
            (ANNA, "read"): 4,
            (BEN, "read"): 9,
        }

    with_store(scenario)


def test_receipts_of_an_unknown_conversation_are_dropped(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.receipts.fold([(FIRST, ANNA, "read", 5)])
        assert await opened.store.receipts.list_of(FIRST) == {}

    with_store(scenario)


# --- directory ---


def test_every_change_of_a_users_keys_raises_the_list_version(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        directory = opened.store.directory
        identity = IdentityKeys(ANNA, {"usage": ["master"]}, {"usage": ["self_signing"]})
        versions = [
            await directory.put_device(device(signed=False)),
            await directory.put_identity(identity),
            await directory.put_device(device()),
            await directory.put_device(device("ANNALAPTOP")),
            await directory.remove_device(ANNA, "ANNALAPTOP"),
        ]
        assert versions == [1, 2, 3, 4, 5]
        lists = await opened.other.directory.lists([ANNA, BEN])
        assert set(lists) == {ANNA}
        assert (lists[ANNA].version, lists[ANNA].identity) == (5, identity)
        assert lists[ANNA].devices == (device(),)

    with_store(scenario)


def test_a_device_is_found_as_it_was_put(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.directory.put_device(device())
        assert await opened.other.directory.find_device("ANNAPHONE1") == device()
        assert await opened.store.directory.find_device("MISSING001") is None

    with_store(scenario)


def test_a_device_id_belongs_to_one_user_for_ever(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        directory = opened.store.directory
        await directory.put_device(device())
        with pytest.raises(Forbidden):
            await directory.put_device(device(user=BEN))
        await directory.remove_device(ANNA, "ANNAPHONE1")
        with pytest.raises(Forbidden):
            await directory.put_device(device(user=BEN))

    with_store(scenario)


def test_the_identity_keys_of_a_device_never_change(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.directory.put_device(device())
        with pytest.raises(Forbidden):
            await opened.store.directory.put_device(device(key="other"))
        assert await opened.store.directory.find_device("ANNAPHONE1") == device()

    with_store(scenario)


def test_only_the_owner_removes_a_device_and_its_prekeys_go_with_it(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        directory = opened.store.directory
        await directory.put_device(device())
        await directory.put_one_time_keys("ANNAPHONE1", {"a": {"key": "1"}})
        await directory.put_fallback_key("ANNAPHONE1", "f", {"key": "2"})
        await directory.remove_device(BEN, "ANNAPHONE1")
        assert await directory.find_device("ANNAPHONE1") == device()
        await directory.remove_device(ANNA, "ANNAPHONE1")
        assert await directory.find_device("ANNAPHONE1") is None
        assert await directory.take_key("ANNAPHONE1") is None

    with_store(scenario)


def test_a_known_one_time_key_stays_as_it_is(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        directory = opened.store.directory
        assert (
            await directory.put_one_time_keys("D", {"a": {"key": "1"}, "b": {"key": "2"}}) == 2
        )
        assert await directory.put_one_time_keys("D", {"a": {"key": "other"}}) == 2
        assert await directory.count_one_time_keys("D") == 2
        taken = dict([await directory.take_key("D"), await directory.take_key("D")])
        assert taken == {"a": {"key": "1"}, "b": {"key": "2"}}

    with_store(scenario)


def test_a_one_time_key_is_taken_once_whoever_else_asks(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        keys = {f"k{n}": {"key": str(n)} for n in range(20)}
        await opened.store.directory.put_one_time_keys("D", keys)
        stores = [opened.store, opened.other] * 15
        taken = await asyncio.gather(*(store.directory.take_key("D") for store in stores))
        ids = [key[0] for key in taken if key is not None]
        assert sorted(ids) == sorted(keys)
        assert taken.count(None) == 10

    with_store(scenario)


def test_the_fallback_key_is_handed_out_when_no_other_is_left_and_is_kept(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        directory = opened.store.directory
        await directory.put_one_time_keys("D", {"a": {"key": "1"}})
        await directory.put_fallback_key("D", "old", {"key": "0"})
        await directory.put_fallback_key("D", "f", {"key": "2"})
        assert await directory.take_key("D", fallback_only=True) == ("f", {"key": "2"})
        assert await directory.take_key("D") == ("a", {"key": "1"})
        assert await directory.take_key("D") == ("f", {"key": "2"})
        assert await directory.take_key("D") == ("f", {"key": "2"})

    with_store(scenario)
