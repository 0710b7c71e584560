"""The keys service over a real store, with devices that hold real keys."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from angarium.bus.contract import DevicesChanged, Event
from angarium.bus.local import LocalBus
from angarium.clock import ManualClock
from angarium.e2ee.olm import OlmEngine
from angarium.errors import Forbidden, Malformed, NotFound, Refused, UnverifiedDevice
from angarium.ids import UserId, new_device_id
from angarium.keys.directory import KEY_ALGORITHM, ClaimRate, Keys
from angarium.limits import (
    CLAIMS_PER_MINUTE,
    DEVICES_PER_USER_MAX,
    ONE_TIME_KEYS_STORED_MAX,
    USERS_PER_QUERY_MAX,
)
from angarium.storage.sqlite.store import open_sqlite

ADA, BOB = UserId("@ada:angarium"), UserId("@bob:angarium")


class Service:
    """Keys over a store in memory, and what the bus heard."""

    def __init__(self, store: Any, clock: ManualClock) -> None:
        self.clock, self.events = clock, list[Event]()
        bus = LocalBus()
        bus.subscribe(self.events.extend)
        self.keys = Keys(directory=store.directory, bus=bus, clock=clock)

    def device(self, user: UserId, identity: Any = None) -> OlmEngine:
        if identity is None:
            return OlmEngine.create(user, new_device_id(), kind="sdk", clock=self.clock)
        return OlmEngine.create_device(
            user, new_device_id(), kind="sdk", identity=identity or None, clock=self.clock
        )

    async def publish(self, engine: OlmEngine, one_time: int = 2) -> Any:
        identity = engine.identity_keys()
        if identity:
            await self.keys.upload_identity(
                engine.user, identity["master_key"], identity["self_signing_key"]
            )
        prekeys = engine.make_prekeys(one_time, True)
        return await self.keys.upload(engine.user, device_keys=engine.device_keys(), **prekeys)

    async def changes(self) -> list[UserId]:
        await asyncio.sleep(0)
        heard = [event.user for event in self.events if isinstance(event, DevicesChanged)]
        self.events.clear()
        return heard


def run(scenario: Callable[[Service], Awaitable[None]]) -> None:
    async def whole() -> None:
        clock = ManualClock()
        sqlite = await open_sqlite(None, clock, inline=True)
        try:
            await scenario(Service(sqlite.store, clock))
        finally:
            await sqlite.close()

    asyncio.run(whole())


def test_a_device_is_published_and_found_by_others() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        uploaded = await service.publish(ada, one_time=2)
        found = await service.keys.query(BOB, [ADA, BOB])

        assert (uploaded.device, uploaded.one_time_keys, uploaded.signed) == (
            ada.device,
            2,
            True,
        )
        assert found["device_keys"] == {ADA: {ada.device: ada.device_keys()}}
        assert found["master_keys"][ADA] == (ada.identity_keys() or {})["master_key"]
        assert ADA in found["self_signing_keys"]
        assert set(found["versions"]) == {ADA}

    run(scenario)


def test_both_orders_of_upload_end_with_a_signed_device() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        identity = ada.identity_keys() or {}
        first = await service.keys.upload(ADA, device_keys=ada.device_keys())
        await service.keys.upload_identity(
            ADA, identity["master_key"], identity["self_signing_key"]
        )
        again = await service.keys.upload(ADA, device_keys=ada.device_keys())

        assert (first.signed, again.signed) == (False, True)
        assert ada.device in (await service.keys.query(BOB, [ADA]))["device_keys"][ADA]

    run(scenario)


def test_a_change_is_told_and_a_repetition_is_not() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.publish(ada)
        assert set(await service.changes()) == {ADA}
        await service.keys.upload(ADA, device_keys=ada.device_keys())

        assert await service.changes() == []

    run(scenario)


def change(engine: OlmEngine, how: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    changed = copy.deepcopy(engine.device_keys())
    how(changed)
    return changed


def test_a_device_with_a_broken_signature_is_refused_and_not_stored() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        zero = "A" * 43
        name = f"curve25519:{ada.device}"
        tampered = change(ada, lambda keys: keys.update(algorithms=[*keys["algorithms"], "x"]))
        zeroed = change(ada, lambda keys: keys["keys"].update({name: zero}))
        with pytest.raises(UnverifiedDevice):
            await service.keys.upload(ADA, device_keys=tampered)
        with pytest.raises(Malformed):
            await service.keys.upload(ADA, device_keys=zeroed)

        assert (await service.keys.query(ADA, [ADA]))["device_keys"] == {}

    run(scenario)


def test_nobody_publishes_for_another() -> None:
    async def scenario(service: Service) -> None:
        ada, bob = service.device(ADA), service.device(BOB)
        await service.publish(bob)
        identity = ada.identity_keys() or {}
        with pytest.raises(Forbidden):
            await service.keys.upload(BOB, device_keys=ada.device_keys())
        with pytest.raises(Forbidden):
            await service.keys.upload_identity(
                BOB, identity["master_key"], identity["self_signing_key"]
            )
        with pytest.raises(Forbidden):
            await service.keys.upload_signatures(ADA, {BOB: {bob.device: bob.device_keys()}})
        with pytest.raises(Forbidden):
            await service.keys.upload(ADA, device=bob.device, **bob.make_prekeys(1, False))
        with pytest.raises(NotFound):
            await service.keys.remove_device(ADA, bob.device)
        with pytest.raises(NotFound):
            await service.keys.count(ADA, bob.device)

    run(scenario)


def test_prekeys_are_checked_before_anything_is_stored() -> None:
    async def scenario(service: Service) -> None:
        ada, other = service.device(ADA), service.device(ADA)
        await service.keys.upload(ADA, device_keys=ada.device_keys())
        foreign = other.make_prekeys(1, False)["one_time_keys"]
        own = ada.make_prekeys(2, True)
        misnamed = {"curve25519:A": next(iter(own["one_time_keys"].values()))}
        unmarked = {f"{KEY_ALGORITHM}:A": next(iter(own["one_time_keys"].values()))}
        for wrong, error in (
            ({"one_time_keys": {**own["one_time_keys"], **foreign}}, UnverifiedDevice),
            ({"one_time_keys": misnamed}, Malformed),
            ({"one_time_keys": own["fallback_keys"]}, Malformed),
            ({"fallback_keys": unmarked}, Malformed),
        ):
            with pytest.raises(error):
                await service.keys.upload(ADA, device=ada.device, **wrong)

        assert await service.keys.count(ADA, ada.device) == 0

    run(scenario)


def test_prekeys_are_topped_up_without_the_devices_keys() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.publish(ada, one_time=2)
        uploaded = await service.keys.upload(ADA, **ada.make_prekeys(3, False))

        assert uploaded.one_time_keys == 5
        with pytest.raises(NotFound):
            await service.keys.upload(BOB, **service.device(BOB).make_prekeys(1, False))

    run(scenario)


def test_each_one_time_key_is_claimed_once_then_the_fallback_key() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.publish(ada, one_time=2)
        wanted = {ADA: {ada.device: KEY_ALGORITHM}}
        claims = [await service.keys.claim(BOB, wanted) for _ in range(4)]
        # By the key itself: a one-time key and a fallback key may bear the same id.
        keys = [next(iter(claim[ADA][ada.device].values()))["key"] for claim in claims]

        assert len(set(keys[:2])) == 2
        assert keys[2] == keys[3]
        assert keys[2] not in keys[:2]
        assert await service.keys.count(ADA, ada.device) == 0

    run(scenario)


def test_claiming_at_once_gives_every_claimer_another_key() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.publish(ada, one_time=30)
        wanted = {ADA: {ada.device: KEY_ALGORITHM}}
        claims = await asyncio.gather(*(service.keys.claim(BOB, wanted) for _ in range(30)))
        ids = {next(iter(claim[ADA][ada.device])) for claim in claims}

        assert len(ids) == 30

    run(scenario)


def test_who_claims_too_often_gets_the_fallback_key_and_empties_nothing() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.publish(ada, one_time=CLAIMS_PER_MINUTE + 5)
        wanted = {ADA: {ada.device: KEY_ALGORITHM}}
        for _ in range(CLAIMS_PER_MINUTE + 20):
            await service.keys.claim(BOB, wanted)

        assert await service.keys.count(ADA, ada.device) == 5
        service.clock.advance(60)
        await service.keys.claim(BOB, wanted)
        assert await service.keys.count(ADA, ada.device) == 4

    run(scenario)


def test_claims_name_known_signed_devices_and_our_algorithm() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.keys.upload(
            ADA, device_keys=ada.device_keys(), **ada.make_prekeys(1, True)
        )

        assert await service.keys.claim(BOB, {ADA: {ada.device: KEY_ALGORITHM}}) == {}
        assert await service.keys.claim(BOB, {BOB: {"NOSUCHDEVICE": KEY_ALGORITHM}}) == {}
        with pytest.raises(Malformed):
            await service.keys.claim(BOB, {ADA: {ada.device: "plain"}})
        many = {f"D{n:08d}": KEY_ALGORITHM for n in range(USERS_PER_QUERY_MAX + 1)}
        with pytest.raises(Malformed):
            await service.keys.claim(BOB, {ADA: many})

    run(scenario)


def test_a_master_key_is_replaced_by_who_may() -> None:
    async def scenario(service: Service) -> None:
        first, second = service.device(ADA), service.device(ADA)
        await service.publish(first)
        identity = second.identity_keys() or {}
        new = (identity["master_key"], identity["self_signing_key"])
        with pytest.raises(Forbidden):
            await service.keys.upload_identity(ADA, *new)
        await service.keys.upload_identity(ADA, *new, may_replace=True)
        found = await service.keys.query(BOB, [ADA])

        assert found["master_keys"][ADA] == identity["master_key"]
        assert found["device_keys"][ADA] == {}, "the old identity's device counts no more"

    run(scenario)


def test_an_unsigned_device_is_shown_to_its_owner_only_until_it_is_signed() -> None:
    async def scenario(service: Service) -> None:
        first = service.device(ADA)
        await service.publish(first)
        second = service.device(ADA, identity=False)
        unsigned = await service.publish(second)
        hidden = await service.keys.query(BOB, [ADA])
        shown = await service.keys.query(ADA, [ADA])
        signed = first.sign_device(second.device_keys())
        await service.keys.upload_signatures(ADA, {ADA: {second.device: signed}})
        after = await service.keys.query(BOB, [ADA])

        assert unsigned.signed is False
        assert set(hidden["device_keys"][ADA]) == {first.device}
        assert set(shown["device_keys"][ADA]) == {first.device, second.device}
        assert set(after["device_keys"][ADA]) == {first.device, second.device}
        again = await service.keys.upload(ADA, device_keys=second.device_keys())
        assert again.signed, "uploading its own keys again keeps the signature"

    run(scenario)


def test_a_signature_that_is_none_is_refused() -> None:
    async def scenario(service: Service) -> None:
        first = service.device(ADA)
        await service.publish(first)
        second = service.device(ADA, identity=False)
        await service.publish(second)
        for keys in (second.device_keys(), change(second, lambda keys: keys.pop("keys"))):
            with pytest.raises((UnverifiedDevice, Malformed)):
                await service.keys.upload_signatures(ADA, {ADA: {second.device: keys}})
        with pytest.raises(NotFound):
            await service.keys.upload_signatures(ADA, {ADA: {"NOSUCHDEVICE": {}}})

        assert second.device not in (await service.keys.query(BOB, [ADA]))["device_keys"][ADA]

    run(scenario)


def test_a_removed_device_is_gone_with_its_keys() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        await service.publish(ada)
        await service.changes()
        await service.keys.remove_device(ADA, ada.device)

        assert (await service.keys.query(ADA, [ADA]))["device_keys"].get(ADA, {}) == {}
        assert await service.keys.claim(BOB, {ADA: {ada.device: KEY_ALGORITHM}}) == {}
        assert await service.changes() == [ADA]

    run(scenario)


def test_devices_and_keys_are_bounded() -> None:
    async def scenario(service: Service) -> None:
        for _ in range(DEVICES_PER_USER_MAX):
            await service.keys.upload(
                ADA, device_keys=service.device(ADA, identity=False).device_keys()
            )
        with pytest.raises(Refused):
            await service.keys.upload(ADA, device_keys=service.device(ADA).device_keys())

        bob = service.device(BOB)
        await service.publish(bob, one_time=1)
        keys = bob.make_prekeys(1, False)["one_time_keys"]
        key = next(iter(keys.values()))
        many = {f"{KEY_ALGORITHM}:{n}": key for n in range(ONE_TIME_KEYS_STORED_MAX)}
        with pytest.raises(Refused):
            await service.keys.upload(BOB, device=bob.device, one_time_keys=many)
        with pytest.raises(Malformed):
            await service.keys.query(ADA, [f"@u{n}:x" for n in range(USERS_PER_QUERY_MAX + 1)])

    run(scenario)


def test_the_claim_rate_counts_pairs() -> None:
    rate = ClaimRate(ManualClock(), per_minute=1)

    assert [rate.is_over("a", "x"), rate.is_over("a", "y"), rate.is_over("b", "x")] == [
        False
    ] * 3
    assert rate.is_over("a", "x")


def test_what_no_signature_covers_is_not_kept() -> None:
    async def scenario(service: Service) -> None:
        ada = service.device(ADA)
        identity = ada.identity_keys() or {}
        junk = {"unsigned": {"x": "\ud800" * 9}}
        stuffed = change(ada, lambda keys: keys.update(junk))
        stuffed["signatures"]["@eve:x"] = {"ed25519:E": "x" * 9}
        stuffed["signatures"][ADA]["ed25519:E"] = {"deep": ["x"]}
        await service.keys.upload_identity(
            ADA, {**identity["master_key"], **junk}, {**identity["self_signing_key"], **junk}
        )
        key_id, key = next(iter(ada.make_prekeys(1, False)["one_time_keys"].items()))
        await service.keys.upload(
            ADA, device_keys=stuffed, one_time_keys={key_id: {**key, **junk}}
        )
        found = await service.keys.query(BOB, [ADA])
        claimed = await service.keys.claim(BOB, {ADA: {ada.device: KEY_ALGORITHM}})

        assert found["device_keys"][ADA][ada.device] == ada.device_keys()
        assert "unsigned" not in repr(found)
        assert claimed[ADA][ada.device] == {key_id: key}

    run(scenario)
