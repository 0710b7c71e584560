"""Whom a device trusts, and the keys it hands out and takes."""

import copy
from typing import Any

import pytest
import vodozemac

from angarium.e2ee import olm
from angarium.errors import IdentityChanged, Undecryptable, UnverifiedDevice
from angarium.ids import DeviceId, UserId
from angarium.model.signatures import encode_base64


def test_a_ghost_device_gets_nothing_and_says_nothing(
    directory: Any, ada: Any, bob: Any
) -> None:
    ghost = directory.new_device("@bob:example", "GHOST999")
    # The server kept the real identity of bob and only added the device.
    identity = bob.engine.identity_keys()
    directory.master_keys[bob.user] = identity["master_key"]
    directory.self_signing_keys[bob.user] = identity["self_signing_key"]
    ada.engine.learn(directory.lists())

    assert [device.id for device in ada.engine.devices([bob.user])] == [bob.id]
    with pytest.raises(UnverifiedDevice):
        ada.engine.unseal(bob.user, ghost.id, b"\x01\x00" + bytes(64))


def test_a_caller_cannot_seal_for_a_device_that_is_not_trusted(
    directory: Any, ada: Any, bob: Any
) -> None:
    directory.seal(ada, bob, b"hello")
    (device,) = ada.engine.devices([bob.user])
    forged = olm.TrustedDevice(
        device.user, DeviceId("GHOST999"), device.curve25519, device.ed25519
    )

    with pytest.raises(UnverifiedDevice):
        ada.engine.seal(forged, b"hello")


def test_new_keys_under_a_known_device_id_are_a_ghost(
    directory: Any, ada: Any, bob: Any
) -> None:
    ada.engine.learn(directory.lists())
    before = ada.engine.devices([bob.user])
    directory.new_device("@bob:example", bob.id, bob.engine.export_identity())

    ada.engine.learn(directory.lists())

    assert before
    assert ada.engine.devices([bob.user]) == []


def test_a_changed_master_key_stops_sending_until_numbers_were_compared(
    directory: Any, ada: Any, bob: Any
) -> None:
    directory.seal(ada, bob, b"hello")
    number = ada.engine.safety_number(bob.user)
    new_bob = directory.new_device("@bob:example", "BOBNEW22")
    del directory.device_keys[bob.user][bob.id]

    for _ in range(2):
        with pytest.raises(IdentityChanged):
            ada.engine.learn(directory.lists())
    ada.save()
    ada.restart()
    with pytest.raises(IdentityChanged):
        ada.engine.devices([bob.user])
    new_bob.engine.learn(directory.lists())
    assert number != ada.engine.safety_number(bob.user)
    assert ada.engine.safety_number(bob.user) == new_bob.engine.safety_number(ada.user)
    ada.engine.accept_identity(bob.user)
    assert ada.engine.is_verified(bob.user)
    assert directory.unseal(new_bob, ada, directory.seal(ada, new_bob, b"hi")) == b"hi"


def test_a_master_key_that_comes_back_ends_the_doubt(
    directory: Any, ada: Any, bob: Any
) -> None:
    ada.engine.learn(directory.lists())
    honest = copy.deepcopy(directory.lists())
    directory.new_device("@bob:example", "BOBNEW22")

    with pytest.raises(IdentityChanged):
        ada.engine.learn(directory.lists())
    ada.engine.learn(honest)

    assert [device.id for device in ada.engine.devices([bob.user])] == [bob.id]


def test_one_changed_identity_does_not_hide_the_news_of_others(
    directory: Any, ada: Any, bob: Any
) -> None:
    ada.engine.learn(directory.lists())
    directory.new_device("@bob:example", "BOBNEW22")
    eve = directory.new_device("@eve:example", "EVEPHONE")

    with pytest.raises(IdentityChanged):
        ada.engine.learn(directory.lists())

    assert [device.id for device in ada.engine.devices([eve.user])] == [eve.id]


def test_nothing_is_known_of_a_stranger(ada: Any) -> None:
    stranger = UserId("@eve:example")

    assert ada.engine.devices([stranger]) == []
    with pytest.raises(UnverifiedDevice):
        ada.engine.safety_number(stranger)
    with pytest.raises(UnverifiedDevice):
        ada.engine.accept_identity(stranger)


@pytest.mark.parametrize(
    "lists",
    [{}, {"master_keys": 3}, {"master_keys": {"@bob:example": None}, "device_keys": []}],
)
def test_a_nonsense_answer_teaches_nothing(ada: Any, lists: Any) -> None:
    ada.engine.learn(lists)

    assert ada.engine.devices([UserId("@bob:example")]) == []


def test_learning_the_same_answer_again_changes_nothing(
    directory: Any, ada: Any, bob: Any
) -> None:
    ada.engine.learn(directory.lists())
    assert ada.engine.take_changes()

    ada.engine.learn(directory.lists())

    assert ada.engine.take_changes() == []


def test_a_removed_device_gets_nothing_more_but_its_messages_still_open(
    directory: Any, ada: Any, bob: Any
) -> None:
    ciphertext = directory.seal(bob, ada, b"on its way")
    ada.engine.learn(directory.lists())
    del directory.device_keys[bob.user][bob.id]
    directory.device_keys[bob.user] = {}

    ada.engine.learn(directory.lists())
    ada.save()
    ada.restart()

    assert ada.engine.devices([bob.user]) == []
    assert [device.id for device in ada.engine.roster([bob.user]).former] == [bob.id]
    assert ada.engine.unseal(bob.user, bob.id, ciphertext) == b"on its way"


def test_a_one_time_key_swapped_by_the_server_starts_nothing(
    directory: Any, ada: Any, bob: Any
) -> None:
    ada.engine.learn(directory.lists())
    (device,) = ada.engine.devices([bob.user])
    claimed = copy.deepcopy(directory.claim(device))
    (key,) = claimed[bob.user][bob.id].values()
    key["key"] = vodozemac.Account().curve25519_key.to_base64()

    assert ada.engine.start_sessions(claimed) == []
    with pytest.raises(Undecryptable):
        ada.engine.seal(device, b"hello")


def test_a_zero_key_starts_nothing_even_when_signed(directory: Any, ada: Any, bob: Any) -> None:
    ada.engine.learn(directory.lists())
    zero = bob.engine._signed({"key": encode_base64(bytes(32))})

    assert ada.engine.start_sessions({bob.user: {bob.id: {"signed_curve25519:AA": zero}}}) == []


@pytest.mark.parametrize("keys", [None, [], {"x": {}}, {"signed_curve25519:A": 7}])
def test_claims_of_another_shape_start_nothing(
    directory: Any, ada: Any, bob: Any, keys: Any
) -> None:
    ada.engine.learn(directory.lists())

    claimed = {bob.user: {bob.id: keys, "GHOST999": keys}, "@x:y": None}
    assert ada.engine.start_sessions(claimed) == []


def test_the_fallback_key_serves_many_and_survives_one_change(
    directory: Any, bob: Any, clock: Any
) -> None:
    directory.one_time[bob.id].clear()
    others = [directory.new_device(f"@u{n}:example", f"PHONE{n:03}") for n in range(3)]
    early = [directory.seal(other, bob, b"early") for other in others]
    clock.advance(8 * 24 * 3600)
    directory.publish(bob, one_time=0)
    bob.restart()

    late = directory.new_device("@late:example", "LATEPHONE")
    assert directory.unseal(bob, late, directory.seal(late, bob, b"late")) == b"late"
    for other, ciphertext in zip(others, early, strict=True):
        assert directory.unseal(bob, other, ciphertext) == b"early"


def test_a_fallback_key_is_not_replaced_twice_in_a_week(bob: Any, clock: Any) -> None:
    first = bob.engine.make_prekeys(0, fallback=True)["fallback_keys"]
    bob.save()
    bob.restart()
    again = bob.engine.make_prekeys(0, fallback=True)["fallback_keys"]
    clock.advance(8 * 24 * 3600)
    later = bob.engine.make_prekeys(0, fallback=True)["fallback_keys"]

    assert first == again
    assert first != later


def test_a_one_time_key_works_once(directory: Any, ada: Any, bob: Any) -> None:
    eve = directory.new_device("@eve:example", "EVEPHONE")
    taken = directory.one_time[bob.id][0]
    directory.unseal(bob, ada, directory.seal(ada, bob, b"first"))
    directory.one_time[bob.id].insert(0, taken)  # the server hands it out again

    with pytest.raises(Undecryptable):
        directory.unseal(bob, eve, directory.seal(eve, bob, b"second"))


def test_prekeys_are_new_each_time_and_signed_as_asked(bob: Any) -> None:
    first, second = (bob.engine.make_prekeys(10, fallback=False) for _ in range(2))

    assert len(first["one_time_keys"]) == len(second["one_time_keys"]) == 10
    assert not first["one_time_keys"].keys() & second["one_time_keys"].keys()
    assert first["fallback_keys"] == {}


def test_a_second_device_of_a_user_is_trusted_and_has_no_master_key(
    directory: Any, ada: Any, bob: Any
) -> None:
    tablet = directory.new_device("@ada:example", "ADATABLET", ada.engine.export_identity())

    assert tablet.engine.identity_keys() is None
    assert directory.unseal(tablet, bob, directory.seal(bob, tablet, b"hi")) == b"hi"
    assert directory.unseal(ada, tablet, directory.seal(tablet, ada, b"me")) == b"me"
    tablet.restart()
    roster = tablet.engine.roster([ada.user, bob.user])
    assert [device.id for device in roster.current] == [ada.id, tablet.id, bob.id]


def test_a_device_signed_by_an_earlier_one_becomes_trusted(
    directory: Any, ada: Any, bob: Any
) -> None:
    engine = olm.OlmEngine.create_device(
        ada.user, DeviceId("ADALAPTOP"), kind="sdk", identity=None, clock=directory.clock
    )
    directory.device_keys[ada.user]["ADALAPTOP"] = engine.device_keys()
    bob.engine.learn(directory.lists())
    assert [device.id for device in bob.engine.devices([ada.user])] == [ada.id]
    with pytest.raises(UnverifiedDevice):
        engine.export_identity()
    with pytest.raises(UnverifiedDevice):
        engine.sign_device(engine.device_keys())

    directory.device_keys[ada.user]["ADALAPTOP"] = ada.engine.sign_device(engine.device_keys())
    bob.engine.learn(directory.lists())

    assert [device.id for device in bob.engine.devices([ada.user])] == ["ADALAPTOP", ada.id]
