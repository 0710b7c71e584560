"""The chain of inner envelopes: what a relay may not change unnoticed."""

import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium.e2ee.body import Body
from angarium.e2ee.engine import Roster, TrustedDevice
from angarium.e2ee.envelope import Accepted, Chain, Core, Draft, Inner, Outer
from angarium.errors import EnvelopeMismatch, Replayed, RosterDiffers, SealBroken
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId, uuid7
from angarium.limits import CHAIN_GAPS_MAX, CHAIN_OWN_MAX

CONVERSATION = ConversationId("0190f3c4-0000-7000-8000-000000000001")
ADA, BOB, GHOST = (
    TrustedDevice(
        UserId(f"@{name}:example"), DeviceId(f"{name.upper()}PHONE"), "c" + name, name
    )
    for name in ("ada", "bob", "ghost")
)
ROSTER = Roster((ADA, BOB))


def key(number: int) -> MessageKey:
    return MessageKey(uuid7(number, lambda n: bytes(n)))


class Line:
    """Two chains and the log between them."""

    def __init__(self) -> None:
        self.chains = {device.id: Chain(CONVERSATION, device.id) for device in (ADA, BOB)}
        self.sequence = 0

    def send(self, sender: TrustedDevice, text: str = "hello") -> tuple[Outer, bytes]:
        self.sequence += 1
        chain = self.chains[sender.id]
        draft = chain.make(key(self.sequence), Body(text=text), ROSTER, now_ms=7)
        chain.commit(draft)
        outer = Outer(CONVERSATION, 1, self.sequence, draft.key, sender.id)
        chain.accept_own(outer)
        return outer, draft.inner

    def accept(
        self, receiver: TrustedDevice, sent: tuple[Outer, bytes], roster: Roster = ROSTER
    ) -> Accepted:
        return self.chains[receiver.id].accept(*sent, roster)


@pytest.fixture
def line() -> Line:
    return Line()


def spoil(inner: bytes, **changed: Any) -> bytes:
    """The same envelope with facts of its core changed, as only a false sender could."""
    sealed = msgspec.msgpack.decode(inner, type=Inner)
    core = msgspec.msgpack.decode(sealed.core, type=Core)
    for name, value in changed.items():
        setattr(core, name, value)
    sealed.core = msgspec.msgpack.encode(core)
    return msgspec.msgpack.encode(sealed)


def test_an_honest_line_has_no_gap_and_one_history(line: Line) -> None:
    for number in range(50):
        sender, receiver = ((ADA, BOB), (BOB, ADA))[number % 3 == 0]
        accepted = line.accept(receiver, line.send(sender, str(number)))

        assert accepted.body.text == str(number)
        assert (accepted.gap, accepted.joined_late, accepted.left_out) == (0, False, ())
        assert not accepted.history_differs


def test_time_and_stream_key_travel_inside(line: Line) -> None:
    chain = line.chains[ADA.id]
    draft = chain.make(key(1), Body(), ROSTER, now_ms=1234)

    accepted = line.accept(BOB, (Outer(CONVERSATION, 1, 1, key(1), ADA.id), draft.inner))

    assert (accepted.ts_ms, accepted.stream) == (1234, draft.stream)
    assert len(draft.stream) == 32


@pytest.mark.parametrize(
    "changed",
    [
        {"conversation": "0190f3c4-0000-7000-8000-000000000002"},
        {"key": key(99)},
        {"device": DeviceId("EVEPHONE")},
    ],
)
def test_what_the_relay_changes_outside_is_a_mismatch(
    line: Line, changed: dict[str, Any]
) -> None:
    outer, inner = line.send(ADA)

    with pytest.raises(EnvelopeMismatch):
        line.accept(BOB, (replace(outer, **changed), inner))


def test_a_message_moved_to_another_conversation_is_a_mismatch(line: Line) -> None:
    outer, inner = line.send(ADA)
    elsewhere = ConversationId("0190f3c4-0000-7000-8000-000000000002")
    chain = Chain(elsewhere, BOB.id)

    with pytest.raises(EnvelopeMismatch):
        chain.accept(replace(outer, conversation=elsewhere), inner, ROSTER)


@pytest.mark.parametrize(
    "changed",
    [{"v": 2}, {"stream": b""}, {"sn": 0}, {"sn": -1}, {"prev": b"x"}, {"body": b"?"}],
)
def test_an_envelope_against_the_rules_is_a_mismatch(
    line: Line, changed: dict[str, Any]
) -> None:
    outer, inner = line.send(ADA)

    with pytest.raises(EnvelopeMismatch):
        line.accept(BOB, (outer, spoil(inner, **changed)))


@pytest.mark.parametrize("inner", [b"", b"\x90", b"nonsense", b"\x94\x01\x02\x03\x04"])
def test_other_bytes_are_a_mismatch(line: Line, inner: bytes) -> None:
    outer, _ = line.send(ADA)

    with pytest.raises(EnvelopeMismatch):
        line.accept(BOB, (outer, inner))


def test_an_own_message_that_comes_from_outside_is_a_mismatch(line: Line) -> None:
    sent = line.send(ADA)

    with pytest.raises(EnvelopeMismatch):
        line.accept(ADA, sent)


def test_a_message_is_accepted_once_also_under_another_sequence(line: Line) -> None:
    outer, inner = line.send(ADA)
    line.accept(BOB, (outer, inner))

    for sequence in (outer.sequence, 77):
        with pytest.raises(Replayed):
            line.accept(BOB, (replace(outer, sequence=sequence), inner))


def test_a_key_used_twice_by_a_false_sender_is_a_replay(line: Line) -> None:
    outer, inner = line.send(ADA)
    line.accept(BOB, (outer, inner))
    _, second = line.send(ADA)

    with pytest.raises(Replayed):
        line.accept(BOB, (outer, spoil(second, mid=outer.key)))


def test_withheld_messages_show_as_a_gap_and_are_welcome_later(line: Line) -> None:
    line.accept(BOB, line.send(ADA, "0"))
    withheld = [line.send(ADA, str(number)) for number in (1, 2)]

    assert line.accept(BOB, line.send(ADA, "3")).gap == 2
    assert line.accept(BOB, withheld[1]).body.text == "2"
    assert line.accept(BOB, withheld[0]).body.text == "1"
    with pytest.raises(Replayed):
        line.accept(BOB, withheld[0])
    assert line.accept(BOB, line.send(ADA)).gap == 0


def test_a_known_gap_is_kept_over_a_restart(line: Line) -> None:
    line.accept(BOB, line.send(ADA, "0"))
    withheld = [line.send(ADA, str(number)) for number in (1, 2)]
    line.accept(BOB, line.send(ADA, "3"))

    line.chains[BOB.id] = Chain.load(line.chains[BOB.id].dump())
    assert [line.accept(BOB, each).body.text for each in withheld] == ["1", "2"]
    with pytest.raises(Replayed):
        line.accept(BOB, withheld[0])


def test_a_forged_predecessor_breaks_the_chain(line: Line) -> None:
    line.accept(BOB, line.send(ADA))
    outer, inner = line.send(ADA)

    with pytest.raises(EnvelopeMismatch):
        line.accept(BOB, (outer, spoil(inner, prev=bytes(32))))
    assert line.accept(BOB, (outer, inner)).gap == 0


def test_another_message_in_place_of_a_withheld_one_breaks_the_chain(line: Line) -> None:
    line.accept(BOB, line.send(ADA))
    outer, inner = line.send(ADA)
    line.accept(BOB, line.send(ADA))

    with pytest.raises(EnvelopeMismatch):
        line.accept(BOB, (outer, spoil(inner, ts_ms=8)))


def test_remembered_gaps_are_bounded(line: Line) -> None:
    line.accept(BOB, line.send(ADA))
    withheld = [line.send(ADA) for _ in range(CHAIN_GAPS_MAX + 30)]

    assert line.accept(BOB, line.send(ADA)).gap == CHAIN_GAPS_MAX + 30
    with pytest.raises(Replayed):
        line.accept(BOB, withheld[0])
    assert line.accept(BOB, withheld[-1]).gap == 0


def test_a_newcomer_starts_where_it_joins(line: Line) -> None:
    for _ in range(5):
        line.send(ADA)

    accepted = line.accept(BOB, line.send(ADA))

    assert (accepted.gap, accepted.joined_late) == (0, True)
    assert not line.accept(BOB, line.send(ADA)).joined_late


# --- device lists ---------------------------------------------------------------------------


def test_a_ghost_in_the_senders_list_is_told_until_it_is_trusted(line: Line) -> None:
    chain = line.chains[ADA.id]
    draft = chain.make(key(1), Body(), Roster((ADA, BOB, GHOST)), now_ms=0)
    sent = (Outer(CONVERSATION, 1, 1, key(1), ADA.id), draft.inner)

    with pytest.raises(RosterDiffers):
        line.accept(BOB, sent)
    assert line.accept(BOB, sent, Roster((ADA, BOB, GHOST))).left_out == ()


def test_a_device_removed_while_the_message_travelled_is_no_ghost(line: Line) -> None:
    draft = line.chains[ADA.id].make(key(1), Body(), Roster((ADA, BOB, GHOST)), now_ms=0)
    sent = (Outer(CONVERSATION, 1, 1, key(1), ADA.id), draft.inner)

    assert line.accept(BOB, sent, Roster((ADA, BOB), former=(GHOST,))).left_out == ()


def test_a_device_the_sender_did_not_know_is_reported(line: Line) -> None:
    sent = line.send(ADA)

    assert line.accept(BOB, sent, Roster((ADA, BOB, GHOST))).left_out == (GHOST.id,)


def test_a_known_device_with_other_keys_differs(line: Line) -> None:
    sent = line.send(ADA)

    with pytest.raises(RosterDiffers):
        line.accept(BOB, sent, Roster((replace(ADA, ed25519="other"), BOB)))


def test_a_list_without_the_receiver_or_the_sender_is_a_mismatch(line: Line) -> None:
    for number, devices in enumerate([(ADA,), (BOB,), ()]):
        draft = line.chains[ADA.id].make(key(number), Body(), Roster(devices), now_ms=0)
        with pytest.raises(EnvelopeMismatch):
            line.accept(BOB, (Outer(CONVERSATION, 1, 1, key(number), ADA.id), draft.inner))


def test_fingerprints_that_do_not_add_up_to_the_hash_differ(line: Line) -> None:
    outer, inner = line.send(ADA)
    sealed = msgspec.msgpack.decode(inner, type=Inner)
    for changed in (
        {"ro": bytes(32)},
        {"rf": sealed.rf + sealed.rf[:8]},
        {"rf": sealed.rf[:11]},
    ):
        forged = msgspec.msgpack.encode(msgspec.structs.replace(sealed, **changed))
        with pytest.raises(RosterDiffers):
            line.accept(BOB, (outer, forged))


def test_sealing_again_for_another_list_keeps_the_chain(line: Line) -> None:
    first, second = line.send(ADA, "first"), line.send(ADA, "second")
    wider = Roster((ADA, BOB, GHOST))

    again = line.chains[ADA.id].remake(first[1], wider)

    assert line.accept(BOB, (first[0], again), wider).body.text == "first"
    assert line.accept(BOB, second).gap == 0


# --- histories ------------------------------------------------------------------------------


def test_two_devices_that_were_shown_another_order_notice(line: Line) -> None:
    line.accept(BOB, line.send(ADA, "one"))
    (second, two), (third, three) = line.send(ADA, "two"), line.send(ADA, "three")

    line.accept(BOB, (replace(third, sequence=2), three))
    line.accept(BOB, (replace(second, sequence=3), two))

    assert line.accept(ADA, line.send(BOB)).history_differs


def test_a_hole_in_what_a_device_holds_gives_no_verdict(line: Line) -> None:
    line.send(ADA, "never shown to bob")
    line.accept(BOB, line.send(ADA))

    assert not line.accept(ADA, line.send(BOB)).history_differs
    assert not line.accept(BOB, line.send(ADA)).history_differs


def test_a_restored_log_starts_a_new_history(line: Line) -> None:
    for _ in range(3):
        line.accept(BOB, line.send(ADA))
    outer, inner = line.send(ADA)
    restored = replace(outer, epoch=2, sequence=1)

    assert not line.accept(BOB, (restored, inner)).history_differs
    line.chains[ADA.id].accept_own(restored)
    assert not line.accept(ADA, line.send(BOB)).history_differs


# --- state ----------------------------------------------------------------------------------


def test_nothing_changes_before_the_commit(line: Line) -> None:
    chain = line.chains[ADA.id]
    before = chain.dump()

    draft = chain.make(key(1), Body(), ROSTER, now_ms=0)

    assert chain.dump() == before
    chain.commit(draft)
    assert chain.dump() != before


def test_only_the_next_draft_can_be_committed(line: Line) -> None:
    chain = line.chains[ADA.id]
    drafts: list[Draft] = [chain.make(key(n), Body(), ROSTER, now_ms=0) for n in (1, 2)]
    chain.commit(drafts[0])

    with pytest.raises(ValueError, match="another message"):
        chain.commit(drafts[1])


def test_a_refused_message_changes_nothing(line: Line) -> None:
    line.accept(BOB, line.send(ADA))
    outer, inner = line.send(ADA)
    before = line.chains[BOB.id].dump()

    for wrong in (spoil(inner, prev=bytes(32)), spoil(inner, sn=1, prev=b""), b"", inner[:-1]):
        with pytest.raises((EnvelopeMismatch, Replayed)):
            line.accept(BOB, (outer, wrong))
    assert line.chains[BOB.id].dump() == before


def test_a_stored_chain_goes_on_where_it_was(line: Line) -> None:
    for number in range(20):
        sender, receiver = ((ADA, BOB), (BOB, ADA))[number % 2]
        sent = line.send(sender)
        line.chains = {name: Chain.load(chain.dump()) for name, chain in line.chains.items()}
        accepted = line.accept(receiver, sent)
        assert (accepted.gap, accepted.history_differs) == (0, False)


def test_equal_chains_have_equal_records(line: Line) -> None:
    for _ in range(3):
        line.accept(BOB, line.send(ADA))
    record = line.chains[BOB.id].dump()

    assert Chain.load(record).dump() == record


@pytest.mark.parametrize("record", [b"", b"\x90", b"nonsense"])
def test_a_broken_record_does_not_open(record: bytes) -> None:
    with pytest.raises(SealBroken):
        Chain.load(record)


def test_a_chain_stays_small_however_long_it_grows(line: Line) -> None:
    for _ in range(300):
        line.accept(BOB, line.send(ADA))

    assert len(line.chains[BOB.id].dump()) < 2048


def test_own_messages_that_never_appear_are_bounded(line: Line) -> None:
    chain = line.chains[ADA.id]
    for number in range(CHAIN_OWN_MAX + 5):
        chain.commit(chain.make(key(number), Body(), ROSTER, now_ms=0))

    assert len(chain._state.own) == CHAIN_OWN_MAX


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_whatever_the_relay_does_each_message_counts_once_and_drops_show(seed: int) -> None:
    rng, line = random.Random(seed), Line()
    sent = [line.send(ADA, str(number)) for number in range(12)]
    schedule = rng.choices(range(12), k=20)  # drops, repeats and reorders
    texts: list[str] = []
    announced = 0
    for number in schedule:
        try:
            accepted = line.accept(BOB, sent[number])
        except Replayed:
            continue
        texts.append(accepted.body.text)
        announced += accepted.gap
        late = len(texts) > 1 and int(accepted.body.text) < max(map(int, texts[:-1]))
        announced -= late

    assert len(texts) == len(set(texts))
    first, newest = int(texts[0]), max(map(int, texts))
    assert announced == newest - first + 1 - len(texts)
    assert all(int(text) >= first for text in texts)
