"""Cross-signing keys and the number people compare."""

import pytest

from angarium.e2ee.identity import Identity, safety_number
from angarium.errors import SealBroken, UnverifiedDevice
from angarium.ids import UserId
from angarium.model.signatures import check_identity, is_cross_signed

ADA = UserId("@ada:example")
NUMBER = "56771 58367 34421 76883 79984 81859 78387 42774 49728 72819 01191 56213"


def test_a_new_identity_passes_the_public_check() -> None:
    public = Identity.create(ADA).public()

    assert check_identity(public["master_key"], public["self_signing_key"]).user == ADA


def test_two_identities_differ() -> None:
    assert Identity.create(ADA).public() != Identity.create(ADA).public()


def test_a_stored_identity_is_the_same_one() -> None:
    identity = Identity.create(ADA)

    again = Identity.load(identity.dump())

    assert again.public() == identity.public()
    assert again.holds_master


def test_a_further_device_signs_without_the_master_key() -> None:
    identity = Identity.create(ADA)

    further = Identity.load(identity.for_further_device().dump())

    assert not further.holds_master
    signed = further.sign_device({"user_id": ADA, "device_id": "ABCDEF"})
    assert is_cross_signed(signed, identity.public()["self_signing_key"])


def test_a_device_of_another_user_is_never_signed() -> None:
    with pytest.raises(UnverifiedDevice):
        Identity.create(ADA).sign_device({"user_id": "@eve:example", "device_id": "ABCDEF"})


@pytest.mark.parametrize("record", [b"", b"\x90", b"nonsense", b"\x94\xa1a\xa1b\xa1c\xa1d"])
def test_a_broken_record_does_not_open(record: bytes) -> None:
    with pytest.raises(SealBroken):
        Identity.load(record)


def test_a_safety_number_has_sixty_digits_and_is_the_same_on_both_sides() -> None:
    one, other = ("@ada:example", bytes(range(32))), ("@bob:example", bytes(range(1, 33)))

    number = safety_number(one, other)

    assert number == safety_number(other, one)
    groups = number.split(" ")
    assert [len(group) for group in groups] == [5] * 12
    assert "".join(groups).isdigit()


def test_a_safety_number_never_changes_between_versions() -> None:
    number = safety_number(("@ada:example", bytes(32)), ("@bob:example", bytes(range(32))))

    assert number == NUMBER


def test_another_key_or_user_gives_another_number() -> None:
    one, other = ("@ada:example", bytes(range(32))), ("@bob:example", bytes(range(1, 33)))

    numbers = {
        safety_number(one, other),
        safety_number(one, (other[0], bytes(32))),
        safety_number(one, ("@eve:example", other[1])),
        safety_number(one, (other[0] + "\x00", other[1][1:])),
    }
    assert len(numbers) == 4
