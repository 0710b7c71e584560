"""Sessions between devices: what opens, what is refused, what survives a restart."""

import copy
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
import vodozemac

from angarium.e2ee import olm
from angarium.e2ee.wire import OlmCiphertext, pad
from angarium.errors import (
    EnvelopeMismatch,
    IdentityChanged,
    Replayed,
    SealBroken,
    TooLarge,
    Undecryptable,
    Untrusted,
    UnverifiedDevice,
)
from angarium.ids import DeviceId, UserId
from angarium.limits import CIPHERTEXT_BYTES_MAX, PLAINTEXT_BYTES_MAX
from angarium.model.signatures import encode_base64


def talk(directory: Any, ada: Any, bob: Any) -> None:
    """One message each way, so that the session is answered."""
    directory.unseal(bob, ada, directory.seal(ada, bob, b"hello"))
    directory.unseal(ada, bob, directory.seal(bob, ada, b"hello back"))


def test_a_message_arrives_and_the_relay_sees_none_of_it(
    directory: Any, ada: Any, bob: Any
) -> None:
    ciphertext = directory.seal(ada, bob, b"a secret word")

    assert directory.unseal(bob, ada, ciphertext) == b"a secret word"
    assert b"secret" not in ciphertext


def test_every_step_survives_a_restart_of_both(directory: Any, ada: Any, bob: Any) -> None:
    for number in range(12):
        sender, receiver = ((ada, bob), (bob, ada))[number % 3 == 2]
        ciphertext = directory.seal(sender, receiver, b"%d" % number)
        sender.restart()
        receiver.restart()
        assert directory.unseal(receiver, sender, ciphertext) == b"%d" % number
        receiver.restart()


def test_messages_open_out_of_order_within_forty(directory: Any, ada: Any, bob: Any) -> None:
    talk(directory, ada, bob)
    sent = [(n, directory.seal(ada, bob, b"%d" % n)) for n in range(40)]
    random.Random(7).shuffle(sent)

    for n, ciphertext in sent:
        assert directory.unseal(bob, ada, ciphertext) == b"%d" % n


@pytest.mark.parametrize("answered", [False, True])
def test_a_ciphertext_opens_once(directory: Any, ada: Any, bob: Any, answered: bool) -> None:
    if answered:
        talk(directory, ada, bob)
    ciphertext = directory.seal(ada, bob, b"once")
    directory.unseal(bob, ada, ciphertext)
    bob.restart()

    with pytest.raises(Replayed):
        directory.unseal(bob, ada, ciphertext)


def test_a_ciphertext_for_another_device_does_not_open(
    directory: Any, ada: Any, bob: Any
) -> None:
    eve = directory.new_device("@eve:example", "EVEPHONE")
    ciphertext = directory.seal(ada, bob, b"for bob")

    with pytest.raises(Undecryptable):
        directory.unseal(eve, ada, ciphertext)


def test_a_ciphertext_under_another_senders_name_is_a_mismatch(
    directory: Any, ada: Any, bob: Any
) -> None:
    eve = directory.new_device("@eve:example", "EVEPHONE")
    ciphertext = directory.seal(ada, bob, b"from ada")

    with pytest.raises(EnvelopeMismatch):
        directory.unseal(bob, eve, ciphertext)
    assert directory.unseal(bob, ada, ciphertext) == b"from ada"


@pytest.mark.parametrize("answered", [False, True])
def test_a_changed_byte_never_changes_what_is_read(
    directory: Any, ada: Any, bob: Any, answered: bool
) -> None:
    if answered:
        talk(directory, ada, bob)
    ciphertext = directory.seal(ada, bob, b"exact")
    bob.engine.learn(directory.lists())

    for at in range(0, len(ciphertext), 3):
        spoiled = bytearray(ciphertext)
        spoiled[at] ^= 0x41
        with pytest.raises(Untrusted):
            bob.engine.unseal(ada.user, ada.id, bytes(spoiled))
    assert directory.unseal(bob, ada, ciphertext) == b"exact"


def test_a_refused_message_leaves_the_state_as_it_was(
    directory: Any, ada: Any, bob: Any
) -> None:
    talk(directory, ada, bob)
    ciphertext = directory.seal(ada, bob, b"hello")
    bob.engine.learn(directory.lists())
    bob.save()
    for at in range(34, len(ciphertext)):
        spoiled = ciphertext[:at] + bytes((ciphertext[at] ^ 0xFF,)) + ciphertext[at + 1 :]
        with pytest.raises(Untrusted):
            bob.engine.unseal(ada.user, ada.id, spoiled)

    assert bob.engine.take_changes() == []
    assert directory.unseal(bob, ada, ciphertext) == b"hello"


def test_a_crash_between_seal_and_store_sends_the_stored_ciphertext_again(
    directory: Any, ada: Any, bob: Any
) -> None:
    talk(directory, ada, bob)
    stored = directory.seal(ada, bob, b"stored")
    (device,) = ada.engine.devices([bob.user])
    ada.engine.seal(device, b"never stored, never sent")
    ada.restart()

    after = directory.seal(ada, bob, b"next")

    assert directory.unseal(bob, ada, stored) == b"stored"
    assert directory.unseal(bob, ada, after) == b"next"
    with pytest.raises(Replayed):
        directory.unseal(bob, ada, stored)


def test_a_message_opened_but_not_stored_opens_again_after_the_crash(
    directory: Any, ada: Any, bob: Any
) -> None:
    for answered in range(2):
        ciphertext = directory.seal(ada, bob, b"%d" % answered)
        bob.engine.learn(directory.lists())
        bob.engine.unseal(ada.user, ada.id, ciphertext)
        bob.restart()

        assert directory.unseal(bob, ada, ciphertext) == b"%d" % answered
        talk(directory, ada, bob)


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


def test_two_sessions_set_up_at_once_both_work(directory: Any, ada: Any, bob: Any) -> None:
    from_ada, from_bob = directory.seal(ada, bob, b"a"), directory.seal(bob, ada, b"b")

    assert directory.unseal(bob, ada, from_ada) == b"a"
    assert directory.unseal(ada, bob, from_bob) == b"b"
    for _ in range(3):
        talk(directory, ada, bob)


def test_the_session_that_received_last_is_used(directory: Any, ada: Any, bob: Any) -> None:
    talk(directory, ada, bob)
    (device,) = ada.engine.devices([bob.user])
    ada.engine.start_sessions(directory.claim(device))
    assert OlmCiphertext.unpack(ada.engine.seal(device, b"x")).kind == 0

    directory.unseal(ada, bob, directory.seal(bob, ada, b"on the old one"))

    assert OlmCiphertext.unpack(ada.engine.seal(device, b"x")).kind == 1


def test_a_device_keeps_four_sessions_and_a_forgotten_one_does_not_start_again(
    directory: Any, ada: Any, bob: Any
) -> None:
    directory.one_time[bob.id].clear()  # The fallback key would start any of them again.
    ada.engine.learn(directory.lists())
    (device,) = ada.engine.devices([bob.user])
    sent = []
    for number in range(6):
        ada.engine.start_sessions(directory.claim(device))
        sent.append(ada.engine.seal(device, b"%d" % number))
        assert directory.unseal(bob, ada, sent[-1]) == b"%d" % number
    bob.restart()

    assert sum(key.startswith("session/") for key in bob.records) == 4
    for ciphertext in sent:
        with pytest.raises(Replayed):
            directory.unseal(bob, ada, ciphertext)


def test_an_old_or_unanswered_session_is_replaced(
    directory: Any, ada: Any, bob: Any, clock: Any
) -> None:
    talk(directory, ada, bob)
    devices = ada.engine.devices([bob.user])
    assert ada.engine.without_session(devices) == []

    clock.advance(31 * 24 * 3600)

    assert ada.engine.without_session(devices) == devices
    talk(directory, ada, bob)
    assert ada.engine.without_session(devices) == []


def test_a_session_that_fails_is_renewed_at_most_once_an_hour(
    directory: Any, ada: Any, bob: Any, clock: Any
) -> None:
    talk(directory, ada, bob)
    devices = bob.engine.devices([ada.user])
    garbage = directory.seal(ada, bob, b"x")[:-1] + b"\x00"
    for wanted in (devices, [], devices):
        with pytest.raises(Undecryptable):
            bob.engine.unseal(ada.user, ada.id, garbage)
        assert bob.engine.without_session(devices) == wanted
        bob.engine.start_sessions(directory.claim(devices[0]))
        clock.advance(1801)


def sealed_by_hand(directory: Any, ada: Any, bob: Any, **changed: Any) -> bytes:
    """A ciphertext of ada's real session around a payload with some facts changed."""
    directory.seal(ada, bob, b"warm up")
    (device,) = ada.engine.devices([bob.user])
    session = ada.engine._sessions.best(device.curve25519)
    payload = msgspec.json.decode(ada.engine._payload(device, session, pad(b"hello")))
    kind, body = ada.engine._sessions.seal(
        device.curve25519, session, msgspec.json.encode(payload | changed)
    )
    return OlmCiphertext(kind, ada.engine._curve25519_raw, body).pack()


def test_a_library_that_does_not_name_the_sending_device_is_understood(
    directory: Any, ada: Any, bob: Any
) -> None:
    sealed = sealed_by_hand(directory, ada, bob, sender_device="")

    assert directory.unseal(bob, ada, sealed) == b"hello"


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "m.room_key"},
        {"sender": "@eve:example"},
        {"sender_device": "EVEPHONE"},
        {"recipient": "@eve:example"},
        {"keys": {"ed25519": encode_base64(bytes(range(32)))}},
        {"recipient_keys": {"ed25519": encode_base64(bytes(range(32)))}},
        {"content": {"v": 2, "alg": "olm", "body": ""}},
        {"content": {"v": 1, "alg": "olm", "body": "AAAA"}},
        {"content": "text"},
        {"sender_device_keys": {"user_id": "@eve:example"}},
    ],
)
def test_a_false_fact_inside_the_seal_is_a_mismatch_and_costs_nothing(
    directory: Any, ada: Any, bob: Any, changed: dict[str, Any]
) -> None:
    forged = sealed_by_hand(directory, ada, bob, **changed)
    bob.engine.learn(directory.lists())
    bob.save()

    with pytest.raises(EnvelopeMismatch):
        bob.engine.unseal(ada.user, ada.id, forged)

    assert bob.engine.take_changes() == []
    honest = sealed_by_hand(directory, ada, bob)
    assert directory.unseal(bob, ada, honest) == b"hello"


def test_another_devices_keys_inside_the_seal_are_a_mismatch(
    directory: Any, ada: Any, bob: Any
) -> None:
    forged = sealed_by_hand(directory, ada, bob, sender_device_keys=bob.engine.device_keys())

    with pytest.raises(EnvelopeMismatch):
        directory.unseal(bob, ada, forged)


def test_the_largest_message_fits_into_a_ciphertext(directory: Any, bob: Any) -> None:
    sender = directory.new_device(f"@{'a' * 100}:{'b' * 100}", "A" * 32)
    largest = bytes(PLAINTEXT_BYTES_MAX - 4)

    ciphertext = directory.seal(sender, bob, largest)

    assert len(ciphertext) <= CIPHERTEXT_BYTES_MAX
    assert directory.unseal(bob, sender, ciphertext) == largest
    with pytest.raises(TooLarge):
        directory.seal(sender, bob, largest + b"x")


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


@pytest.mark.parametrize("broken", ["account", "identity", "session/"])
def test_a_broken_record_is_named_and_nothing_is_loaded(
    directory: Any, ada: Any, bob: Any, broken: str
) -> None:
    talk(directory, ada, bob)
    (key, *_) = [key for key in ada.records if key.startswith(broken)]
    ada.records[key] = ada.records[key][:-4]

    with pytest.raises(SealBroken):
        ada.restart()


def test_changes_are_handed_out_once(directory: Any, ada: Any, bob: Any) -> None:
    directory.seal(ada, bob, b"x")

    assert ada.engine.take_changes() == []


def test_a_pickle_key_is_never_used_twice(directory: Any, ada: Any, bob: Any) -> None:
    directory.seal(ada, bob, b"1")
    first = dict(ada.records)
    directory.seal(ada, bob, b"2")

    changed = [key for key in first if ada.records[key] != first[key]]
    assert changed
    assert all(first[key][60:100] not in ada.records[key] for key in changed)


@pytest.mark.slow
def test_a_thousand_random_steps_of_three_devices_lose_and_repeat_nothing(
    directory: Any, ada: Any, bob: Any
) -> None:
    rng = random.Random(20261124)
    tablet = directory.new_device("@ada:example", "ADATABLET", ada.engine.export_identity())
    devices = [ada, bob, tablet]
    mailboxes: dict[tuple[str, str], list[tuple[bytes, bytes]]] = {}
    passed_over: Counter[tuple[str, str]] = Counter()
    opened = sent = 0
    for step in range(1000):
        sender, receiver = rng.sample(devices, 2)
        mailbox = mailboxes.setdefault((sender.id, receiver.id), [])
        if len(mailbox) < 6 and rng.random() < 0.55:
            text = b"%d" % step
            mailbox.append((text, directory.seal(sender, receiver, text)))
            sent += 1
            if rng.random() < 0.1:  # A ratchet step that was never stored nor sent.
                directory.seal_unstored(sender, receiver)
        elif mailbox:
            # The library keeps five receiving chains: nothing may be overtaken by more.
            line = sender.id, receiver.id
            at = 0 if passed_over[line] == 3 else rng.randrange(len(mailbox))
            passed_over[line] = passed_over[line] + 1 if at else 0
            text, ciphertext = mailbox.pop(at)
            if rng.random() < 0.1:  # Opened, then a crash before it was stored.
                receiver.engine.learn(directory.lists())
                assert receiver.engine.unseal(sender.user, sender.id, ciphertext) == text
                receiver.restart()
            assert directory.unseal(receiver, sender, ciphertext) == text
            opened += 1
            if rng.random() < 0.2:
                with pytest.raises(Replayed):
                    directory.unseal(receiver, sender, ciphertext)
        if rng.random() < 0.1:
            rng.choice(devices).restart()
        if rng.random() < 0.05:
            directory.publish(receiver, one_time=3)
    assert sent > 300
    assert opened > 250
