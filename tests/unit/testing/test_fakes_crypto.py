"""The quick engine keeps the contract's promises that a simulation relies on."""

import random
import time

import pytest

from angarium.clock import ManualClock
from angarium.e2ee.engine import CryptoEngine, TrustedDevice
from angarium.errors import Replayed, Undecryptable, UnverifiedDevice
from angarium.ids import DeviceId, UserId
from angarium.testing.fakes_crypto import FastEngine, Witness

ANNA, BEN = UserId("@anna:angarium"), UserId("@ben:angarium")


def engine(user: UserId, device: str, seed: int = 1) -> FastEngine:
    return FastEngine.create(
        user,
        DeviceId(device),
        kind="sdk",
        clock=ManualClock(),
        random=random.Random(f"{seed} {device}").randbytes,
    )


def answer(*engines: FastEngine) -> dict[str, dict[str, object]]:
    """What keys/query says about these devices."""
    lists: dict[str, dict[str, object]] = {
        "device_keys": {},
        "master_keys": {},
        "self_signing_keys": {},
    }
    for one in engines:
        devices = lists["device_keys"].setdefault(one.user, {})
        assert isinstance(devices, dict)
        devices[one.device] = one.device_keys()
        public = one.identity_keys()
        if public is not None:
            lists["master_keys"][one.user] = public["master_key"]
            lists["self_signing_keys"][one.user] = public["self_signing_key"]
    return lists


def met(*engines: FastEngine) -> None:
    for one in engines:
        one.learn(answer(*engines))


def device_of(one: FastEngine, other: FastEngine) -> TrustedDevice:
    return next(d for d in one.devices([other.user]) if d.id == other.device)


def start(sender: FastEngine, recipient: FastEngine) -> TrustedDevice:
    keys = recipient.make_prekeys(1, fallback=False)["one_time_keys"]
    assert sender.start_sessions({recipient.user: {recipient.device: keys}})
    return device_of(sender, recipient)


def test_it_keeps_the_contract_of_an_engine() -> None:
    one: CryptoEngine = engine(ANNA, "ANNA01")
    assert one.user == ANNA


def test_what_is_sealed_for_a_device_opens_there_and_hides_the_text() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    met(anna, ben)
    device = start(anna, ben)

    ciphertext = anna.seal(device, b"a secret")

    assert b"a secret" not in ciphertext
    assert ben.unseal(ANNA, anna.device, ciphertext) == b"a secret"


def test_another_device_of_the_same_person_cannot_open_it() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    second = FastEngine.create_device(
        BEN,
        DeviceId("BEN002"),
        kind="sdk",
        identity=ben.export_identity(),
        clock=ManualClock(),
        random=random.Random(2).randbytes,
    )
    met(anna, ben, second)
    start(anna, second)
    ciphertext = anna.seal(start(anna, ben), b"for one device")

    with pytest.raises(Undecryptable):
        second.unseal(ANNA, anna.device, ciphertext)


def test_a_replay_is_refused_and_late_messages_open_once() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    met(anna, ben)
    device = start(anna, ben)
    first, second, third = (anna.seal(device, bytes([n])) for n in range(3))

    assert [ben.unseal(ANNA, anna.device, ct) for ct in (third, first, second)] == [
        b"\x02",
        b"\x00",
        b"\x01",
    ]
    for ciphertext in (first, second, third):
        with pytest.raises(Replayed):
            ben.unseal(ANNA, anna.device, ciphertext)


def test_a_changed_byte_does_not_open_and_leaves_the_state() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    met(anna, ben)
    ciphertext = anna.seal(start(anna, ben), b"text")
    broken = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])

    with pytest.raises(Undecryptable):
        ben.unseal(ANNA, anna.device, broken)
    assert ben.unseal(ANNA, anna.device, ciphertext) == b"text"


def test_an_unknown_sender_is_not_trusted() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    anna.learn(answer(anna, ben))
    ciphertext = anna.seal(start(anna, ben), b"text")

    with pytest.raises(UnverifiedDevice):
        ben.unseal(ANNA, anna.device, ciphertext)


def test_a_device_goes_on_from_its_records_after_each_step() -> None:
    engines = {"ANNA01": engine(ANNA, "ANNA01"), "BEN001": engine(BEN, "BEN001")}
    records: dict[str, dict[str, bytes]] = {name: {} for name in engines}
    met(*engines.values())

    def restart(name: str) -> None:
        one = engines[name]
        for change in one.take_changes():
            if change.value is None:
                records[name].pop(change.key, None)
            else:
                records[name][change.key] = change.value
        engines[name] = FastEngine.load(
            one.user, one.device, records[name], clock=ManualClock(), random=random.randbytes
        )

    start(engines["ANNA01"], engines["BEN001"])
    for n in range(5):
        restart("ANNA01")
        restart("BEN001")
        anna, ben = engines["ANNA01"], engines["BEN001"]
        ciphertext = anna.seal(device_of(anna, ben), bytes([n]))
        restart("BEN001")
        assert engines["BEN001"].unseal(ANNA, anna.device, ciphertext) == bytes([n])


def test_the_witness_sees_a_ratchet_that_was_rolled_back() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    met(anna, ben)
    device, witness = start(anna, ben), Witness()
    records = {c.key: c.value for c in anna.take_changes() if c.value is not None}
    first = anna.seal(device, b"first")
    rolled_back = FastEngine.load(ANNA, anna.device, records, clock=ManualClock())
    other = rolled_back.seal(device, b"another")

    assert not witness.reused(anna.device, ben.device, first)
    assert not witness.reused(anna.device, ben.device, first)  # The same bytes are a retry.
    assert witness.reused(anna.device, ben.device, other)


def test_sealing_and_opening_cost_next_to_nothing() -> None:
    anna, ben = engine(ANNA, "ANNA01"), engine(BEN, "BEN001")
    met(anna, ben)
    device, started = start(anna, ben), time.process_time()
    for _ in range(200):
        ben.unseal(ANNA, anna.device, anna.seal(device, bytes(200)))

    assert time.process_time() - started < 0.2
