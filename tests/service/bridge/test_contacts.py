"""Contacts are followed through changes of number and id, and never merged."""

import asyncio
from typing import Any

from angarium.bridge.contacts import Contacts, mark_key
from angarium.channels.contract import Address


def contacts_of(world: Any) -> Contacts:
    return Contacts(
        channel="twilio", vault=world.store.vault, sealer=world.sealer, key=b"k" * 32,
        domain="angarium",
    )  # fmt: skip


def test_a_contact_is_found_again_and_learns_its_business_scoped_id(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            contacts = contacts_of(world)
            first = await contacts.recognise(Address("+1555000"))
            assert (await contacts.recognise(Address("+1555000"))).user == first.user
            both = await contacts.recognise(Address("+1555000", "US.abc"))
            hidden = await contacts.recognise(Address(bsuid="US.abc"))
            assert both.user == hidden.user == first.user
            assert hidden.card.address() == Address("+1555000", "US.abc")

    asyncio.run(scenario())


def test_a_new_number_of_a_known_person_is_followed(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            contacts = contacts_of(world)
            first = await contacts.recognise(Address("+1555000", "US.abc"))
            moved = await contacts.recognise(Address("+1555999", "US.abc"))
            assert moved.user == first.user
            assert moved.card.phone == "+1555999"

    asyncio.run(scenario())


def test_a_number_that_passed_to_somebody_else_no_longer_reaches_the_first(
    make_world: Any,
) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            contacts = contacts_of(world)
            first = await contacts.recognise(Address("+1555000", "US.abc"))
            second = await contacts.recognise(Address("+1555000", "US.xyz"))
            assert second.user != first.user
            assert second.card.before == (first.user,)
            old = await contacts.find(first.user)
            assert old is not None
            assert old.address() == Address(bsuid="US.abc")
            assert (await contacts.recognise(Address("+1555000"))).user == second.user

    asyncio.run(scenario())


def test_two_contacts_that_turn_out_to_be_one_person_stay_two(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            contacts = contacts_of(world)
            by_phone = await contacts.recognise(Address("+1555000"))
            by_id = await contacts.recognise(Address(bsuid="US.abc"))
            assert by_phone.user != by_id.user
            both = await contacts.recognise(Address("+1555000", "US.abc"))
            assert both.user == by_id.user
            assert both.card.before == (by_phone.user,)
            assert await contacts.find(by_phone.user) is not None

    asyncio.run(scenario())


def test_the_parent_id_decides_only_when_nothing_else_is_known(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            contacts = contacts_of(world)
            first = await contacts.recognise(Address("+1", "US.a", "US.ENT.p"))
            other = await contacts.recognise(Address("+2", "US.b", ""))
            assert other.user != first.user
            assert (await contacts.recognise(Address(parent="US.ENT.p"))).user == first.user

    asyncio.run(scenario())


def test_the_secret_of_the_marks_is_made_once_and_lies_sealed(make_world: Any) -> None:
    async def scenario() -> None:
        async with make_world() as world:
            vault, sealer = world.store.vault, world.sealer
            keys = await asyncio.gather(*(mark_key(vault, sealer) for _ in range(4)))
            assert len(set(keys)) == 1
            assert len(keys[0]) == 32
            (record,) = await vault.read("bridge-secrets")
            assert keys[0] not in record.blob

    asyncio.run(scenario())
