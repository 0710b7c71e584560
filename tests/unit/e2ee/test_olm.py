"""Sessions between devices: what opens, what is refused, what survives a restart."""

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
import vodozemac

from angarium.e2ee.wire import OlmCiphertext, pad
from angarium.errors import (
    EnvelopeMismatch,
    Replayed,
    SealBroken,
    TooLarge,
    Undecryptable,
    Untrusted,
)
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


def test_forged_ratchet_keys_do_not_push_out_real_ones(
    directory: Any, ada: Any, bob: Any
) -> None:
    talk(directory, ada, bob)
    held, newer = directory.seal(ada, bob, b"held back"), directory.seal(ada, bob, b"newer")
    assert directory.unseal(bob, ada, newer) == b"newer"

    for _ in range(8):
        forged = vodozemac.Curve25519SecretKey().public_key().to_bytes()
        at = 34 + 3  # version, tag and length stand before the ratchet key
        with pytest.raises(Undecryptable):
            bob.engine.unseal(ada.user, ada.id, newer[:at] + forged + newer[at + 32 :])

    assert directory.unseal(bob, ada, held) == b"held back"


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
    talk(directory, ada, bob)
    forged = sealed_by_hand(directory, ada, bob, **changed)
    bob.engine.learn(directory.lists())
    bob.save()

    for _ in range(2):  # The second time too: the ratchet did not move.
        with pytest.raises(EnvelopeMismatch):
            bob.engine.unseal(ada.user, ada.id, forged)

    assert bob.engine.take_changes() == []
    honest = sealed_by_hand(directory, ada, bob)
    assert directory.unseal(bob, ada, honest) == b"hello"


@pytest.mark.parametrize("changed", [{"recipient": "@eve:example"}, {"content": "text"}])
def test_a_false_first_message_uses_up_no_key(
    directory: Any, ada: Any, bob: Any, changed: dict[str, Any]
) -> None:
    forged = sealed_by_hand(directory, ada, bob, **changed)

    for _ in range(2):
        with pytest.raises(EnvelopeMismatch):
            directory.unseal(bob, ada, forged)

    assert directory.unseal(bob, ada, sealed_by_hand(directory, ada, bob)) == b"hello"


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
