"""Webhooks that may concern the same person are never worked on side by side."""

from hypothesis import given
from hypothesis import strategies as st

from angarium.bridge.identity import (
    contact_user,
    delivery_id,
    identifiers,
    inbound_key,
    mark,
    notice_id,
)  # fmt: skip
from angarium.bridge.inbound import Opened, lanes_of
from angarium.channels.contract import Address, Inbound, StatusUpdate
from angarium.ids import ConversationId, check_user_id, check_uuid
from angarium.storage.contract import WebhookEntry

ADDRESSES = st.builds(
    Address, st.sampled_from(["", "+1", "+2", "+3"]), st.sampled_from(["", "US.a", "US.b"]),
    st.sampled_from(["", "US.ENT.p"]),
)  # fmt: skip


def opened(number: int, address: Address) -> Opened:
    event = Inbound(f"SM{number}", address, "", "text", "hi")
    return Opened(WebhookEntry(number, "twilio", f"e{number}", b"", 0), [event])


@given(st.lists(ADDRESSES, max_size=20))
def test_lanes_share_no_identifier_and_keep_the_order(addresses: list[Address]) -> None:
    every = [opened(number, address) for number, address in enumerate(addresses)]
    lanes = lanes_of(every)
    assert sorted(one.entry.id for lane in lanes for one in lane) == list(range(len(every)))
    for lane in lanes:
        assert [one.entry.id for one in lane] == sorted(one.entry.id for one in lane)
    names = [{name for one in lane for name in one.names()} for lane in lanes]
    assert sum(len(each) for each in names) == len(set().union(*names))


def test_statuses_wait_for_nobody() -> None:
    entries = [
        Opened(WebhookEntry(n, "twilio", f"s{n}", b"", 0), [StatusUpdate("SM", "sent")])
        for n in range(3)
    ]
    assert len(lanes_of(entries)) == 3


def test_a_business_scoped_id_tells_more_than_a_number() -> None:
    known = identifiers(Address("+15550001234", "US.a", "US.ENT.b"))
    assert [kind for kind, _ in known] == ["bsuid", "phone", "parent"]
    assert identifiers(Address()) == []


def test_a_mark_depends_on_key_channel_kind_and_value() -> None:
    marks = {
        mark(key, channel, kind, value)
        for key in (b"a", b"b")
        for channel in ("twilio", "meta")
        for kind in ("phone", "bsuid")
        for value in ("+1", "+2")
    }
    assert len(marks) == 16


def test_what_is_made_of_them_has_the_systems_shapes() -> None:
    user = contact_user(mark(b"k", "twilio", "phone", "+15550001234"), "angarium")
    assert check_user_id(user) == user
    conversation = ConversationId("c")
    keys = [
        inbound_key("twilio", "SM1"), inbound_key("twilio", "SM2"),
        delivery_id(conversation, 1, 0), delivery_id(conversation, 1, 1),
        delivery_id(conversation, 2, 0), notice_id("twilio", "SM1", "stopped"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert all(check_uuid(key) == key for key in keys)
