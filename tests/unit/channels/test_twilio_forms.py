"""What each recorded webhook means."""

from pathlib import Path
from urllib.parse import parse_qsl

import httpx2
import pytest

from angarium.channels.contract import Address, Inbound, StatusUpdate, WebhookRequest
from angarium.channels.twilio import Twilio, sign

FIXTURES = Path(__file__).parents[2] / "fixtures" / "twilio"
URL = "https://chat.example.com/webhooks/twilio"
TWILIO = Twilio(
    account_sid="AC1", auth_tokens=["t"], status_url=URL + "/status", http=httpx2.AsyncClient()
)


def body(name: str) -> bytes:
    return (FIXTURES / f"{name}.form").read_bytes()


def inbound(name: str) -> Inbound:
    (event,) = TWILIO.parse(URL, body(name))
    assert isinstance(event, Inbound)
    return event


def status(name: str, url: str = URL + "/status") -> StatusUpdate:
    (event,) = TWILIO.parse(url, body(name))
    assert isinstance(event, StatusUpdate)
    return event


def event_id(raw: bytes, headers: dict[str, str] | None = None) -> str:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    return TWILIO.event_id(WebhookRequest(URL, "POST", {**kind, **(headers or {})}, raw))


def test_a_text_is_read_to_the_last_character() -> None:
    event = inbound("text")
    assert (event.kind, event.text) == ("text", "Where is my parcel? 📦 &=+%")
    assert event.contact == Address(phone="+15550001234")
    assert event.business == "whatsapp:+15550006060"
    assert event.profile_name == "Ada L"


def test_a_reply_names_what_it_answers() -> None:
    assert inbound("text_with_reply").reply_to.endswith("63")
    assert not inbound("text_with_reply").forwarded


def test_a_forwarded_text_is_marked() -> None:
    assert inbound("text_forwarded").forwarded


@pytest.mark.parametrize(
    ("name", "content_type", "text"),
    [
        ("image_with_caption", "image/jpeg", "look"),
        ("voice_note", "audio/ogg", ""),
        ("contact_card", "text/vcard", ""),
    ],
)
def test_media_is_kept_as_a_reference(name: str, content_type: str, text: str) -> None:
    event = inbound(name)
    assert (event.kind, event.text) == ("media", text)
    assert [media.content_type for media in event.media] == [content_type]


def test_a_location_has_coordinates() -> None:
    event = inbound("location")
    assert event.kind == "location"
    assert event.location == pytest.approx((52.516274, 13.377704))


def test_a_button_and_a_list_row_have_payload_and_words() -> None:
    button, row = inbound("button_reply"), inbound("list_reply")
    assert (button.kind, button.button, button.text) == ("button", "yes-1", "Yes, please")
    assert (row.kind, row.button, row.text) == ("button", "row-2", "Tomorrow")


def test_a_person_who_hides_the_number_is_known_by_user_id() -> None:
    assert inbound("bsuid_only").contact == Address(bsuid="US.13491208655302741918")


def test_both_identifiers_and_the_parent_are_taken_where_shown() -> None:
    assert inbound("bsuid_and_phone").contact == Address(
        "+15550001234", "US.13491208655302741918", "US.ENT.11815799212886844830"
    )


def test_unknown_parameters_are_kept_and_harm_nothing() -> None:
    event = inbound("unknown_parameters")
    assert event.text == "new"
    assert event.raw["FutureThing"] == "whatever"
    assert event.raw["Another"] == ""
    assert inbound("from_advertisement").raw["ReferralSourceType"] == "ad"


@pytest.mark.parametrize("name", ["reaction_unsupported", "flow_answer"])
def test_a_kind_that_carries_no_text_is_unsupported_and_kept(name: str) -> None:
    event = inbound(name)
    assert event.kind == "unsupported"
    assert event.contact.phone == "+15550001234"
    assert event.raw["MessageType"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("status_accepted", "accepted"), ("status_queued", "queued"),
        ("status_sending", "sending"), ("status_sent", "sent"),
        ("status_delivered", "delivered"), ("status_read", "read"),
        ("status_canceled", "failed"), ("status_failed", "failed"),
        ("status_undelivered", "failed"),
    ],
)  # fmt: skip
def test_each_status_is_understood(name: str, expected: str) -> None:
    assert status(name).status == expected


def test_a_failed_status_says_whether_it_may_be_tried_again() -> None:
    assert (status("status_failed").error_code, status("status_failed").verdict) == (
        "63018",
        "retry",
    )
    assert status("status_undelivered").verdict == "never"


def test_our_own_delivery_comes_back_in_the_callbacks_url() -> None:
    assert status("status_sent", URL + "/status?delivery=abc-1").delivery == "abc-1"


def test_a_status_nobody_has_heard_of_is_kept() -> None:
    assert inbound("status_unheard_of").kind == "unsupported"


def test_messages_and_statuses_never_share_an_event_id() -> None:
    ids = {event_id(path.read_bytes()) for path in FIXTURES.glob("*.form")}
    assert len(ids) == len(list(FIXTURES.glob("*.form")))
    assert event_id(body("text")).startswith("message:SM")
    assert event_id(body("status_read")).endswith(":read")


def test_a_webhook_without_a_message_is_known_by_token_or_bytes() -> None:
    assert event_id(b"X=1", {"i-twilio-idempotency-token": "tok"}) == "token:tok"
    assert event_id(b"X=1") == event_id(b"X=1") != event_id(b"X=2")


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{}", b"a=b", b"MessageSid=SM1"])
def test_no_bytes_make_parsing_fail(raw: bytes) -> None:
    (event,) = TWILIO.parse(URL, raw)
    assert isinstance(event, Inbound)
    assert event.kind == "unsupported"


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.form")), ids=lambda path: path.stem)
def test_each_recorded_webhook_verifies_when_signed(path: Path) -> None:
    raw = path.read_bytes()
    signature = sign("t", URL, parse_qsl(raw.decode(), keep_blank_values=True))
    headers = {
        "x-twilio-signature": signature,
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
    }
    TWILIO.verify(WebhookRequest(URL, "POST", headers, raw))
