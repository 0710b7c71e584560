"""What a device believes is bounded and survives a restart."""

from typing import Any

from angarium.clock import ManualClock
from angarium.e2ee.engine import TrustedDevice
from angarium.e2ee.identity import Identity
from angarium.e2ee.olm import OlmEngine
from angarium.e2ee.trust import Trust
from angarium.ids import DeviceId, UserId
from angarium.limits import DEVICES_PER_USER_MAX, FORMER_DEVICES_MAX

ADA, BOB = UserId("@ada:example"), UserId("@bob:example")
OWN = TrustedDevice(ADA, DeviceId("ADAPHONE"), "curve", "ed")


def lists(identity: Identity, names: list[str]) -> dict[str, Any]:
    public = identity.public()
    devices = {
        name: OlmEngine.create_device(
            BOB, DeviceId(name), kind="sdk", identity=identity, clock=ManualClock()
        ).device_keys()
        for name in names
    }
    return {
        "device_keys": {BOB: devices},
        "master_keys": {BOB: public["master_key"]},
        "self_signing_keys": {BOB: public["self_signing_key"]},
    }


def test_a_user_has_at_most_so_many_devices() -> None:
    trust = Trust(OWN)

    trust.learn(lists(Identity.create(BOB), [f"DEVICE{n:03}" for n in range(80)]))

    assert len(trust.devices([BOB])) == DEVICES_PER_USER_MAX


def test_former_devices_are_remembered_up_to_a_bound() -> None:
    trust, identity = Trust(OWN), Identity.create(BOB)
    for n in range(FORMER_DEVICES_MAX + 3):
        trust.learn(lists(identity, [f"DEVICE{n:03}"]))

    former = trust.roster([BOB]).former
    assert len(former) == FORMER_DEVICES_MAX
    assert trust.find(BOB, DeviceId("DEVICE000")) is None
    assert trust.find(BOB, DeviceId("DEVICE005")) is not None


def test_a_device_listed_again_is_current_again() -> None:
    trust, identity = Trust(OWN), Identity.create(BOB)
    both = lists(identity, ["DEVICE001", "DEVICE002"])
    one = both | {"device_keys": {BOB: {"DEVICE001": both["device_keys"][BOB]["DEVICE001"]}}}
    for answer in (both, one, both):
        trust.learn(answer)

    assert trust.roster([BOB]).former == ()
    assert len(trust.devices([BOB])) == 2


def test_a_device_under_another_users_name_is_ignored() -> None:
    trust, answer = Trust(OWN), lists(Identity.create(BOB), ["DEVICE001"])
    eve = UserId("@eve:example")
    moved = {part: {eve: by_user[BOB]} for part, by_user in answer.items()}
    renamed = answer | {
        "device_keys": {BOB: {"OTHER1": answer["device_keys"][BOB]["DEVICE001"]}}
    }

    trust.learn(moved)
    trust.learn(renamed)

    assert trust.devices([eve, BOB]) == []


def test_entries_that_are_no_devices_do_not_hide_the_others() -> None:
    trust, answer = Trust(OWN), lists(Identity.create(BOB), ["DEVICE001"])
    answer["device_keys"][BOB] |= {"NONSENSE": 3, OWN.id: None}

    trust.learn(answer)

    assert [device.id for device in trust.devices([BOB])] == ["DEVICE001"]


def test_beliefs_survive_a_restart() -> None:
    trust = Trust(OWN)
    trust.learn(lists(Identity.create(BOB), ["DEVICE001"]))

    again = Trust(OWN)
    for key in trust.changed:
        again.load(key, trust.record(key) or b"")

    assert again.devices([BOB]) == trust.devices([BOB])
    assert again.master(BOB) == trust.master(BOB)
    assert trust.record("known/@eve:example") is None


def test_the_roster_names_this_device_too() -> None:
    assert Trust(OWN).roster([ADA, BOB]).current == (OWN,)
    assert Trust(OWN).roster([BOB]).current == ()
    assert Trust(OWN).devices([ADA]) == []
