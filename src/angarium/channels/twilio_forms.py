"""Twilio's webhook forms and what each means. Unknown parameters are kept."""

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl

from angarium.channels.contract import Address, Inbound, MediaRef
from angarium.errors import Malformed

FIELDS_MAX = 1000  # More parameters in one webhook: Malformed.
MEDIA_MAX = 32  # More attachments in one message are not read.

Status = Literal["accepted", "queued", "sending", "sent", "delivered", "read", "failed"]
STATUSES: dict[str, Status] = {
    "accepted": "accepted", "scheduled": "accepted", "queued": "queued", "sending": "sending",
    "sent": "sent", "delivered": "delivered", "partially_delivered": "delivered",
    "read": "read", "failed": "failed", "undelivered": "failed", "canceled": "failed",
}  # fmt: skip

_PHONE = re.compile(r"\+[0-9]{5,20}")
_BSUID = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[A-Za-z0-9]{1,128}")
# Kinds that Twilio names and that carry nothing we can pass on when they come without text.
_PLAIN_KINDS = frozenset({"", "text", "interactive", "button"})


def parse_form(body: bytes) -> dict[str, str]:
    """The parameters; of a repeated one the last counts. Raises Malformed."""
    try:
        return dict(
            parse_qsl(
                body.decode(),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=FIELDS_MAX,
            )
        )
    except ValueError:
        raise Malformed("the webhook's body is not a form") from None


def to_inbound(form: Mapping[str, str]) -> Inbound:
    """The message in a webhook; `unsupported` when nothing of it can be passed on."""
    media = _media(form)
    button = form.get("ButtonPayload") or form.get("ListId") or ""
    text = form.get("Body") or form.get("ButtonText") or form.get("ListTitle") or ""
    return Inbound(
        id=form["MessageSid"],
        contact=_address(form),
        business=form.get("To", ""),
        kind=_kind(form, text, media, button),
        text=text,
        profile_name=form.get("ProfileName", ""),
        media=media,
        button=button,
        location=_location(form),
        reply_to=form.get("OriginalRepliedMessageSid", ""),
        forwarded="true" in (form.get("Forwarded"), form.get("FrequentlyForwarded")),
        raw=dict(form),
    )


def unsupported(raw: Mapping[str, str]) -> Inbound:
    """A webhook of a kind we do not know, kept whole."""
    sid = raw.get("MessageSid", "")
    return Inbound(sid, _address(raw), raw.get("To", ""), "unsupported", raw=dict(raw))


def _kind(
    form: Mapping[str, str], text: str, media: tuple[MediaRef, ...], button: str
) -> Literal["text", "media", "location", "button", "unsupported"]:
    if button or form.get("ButtonText"):
        return "button"
    if _location(form) is not None:
        return "location"
    if media:
        return "media"
    if text and (form.get("MessageType", "") in _PLAIN_KINDS or form.get("Body")):
        return "text"
    return "unsupported"


def _address(form: Mapping[str, str]) -> Address:
    sender = form.get("From", "").removeprefix("whatsapp:")
    user = form.get("ExternalUserId", "").removeprefix("whatsapp:")
    parent = form.get("ParentExternalUserId", "").removeprefix("whatsapp:")
    phone = sender if _PHONE.fullmatch(sender) else ""
    if not phone and _PHONE.fullmatch("+" + form.get("WaId", "")):
        phone = "+" + form["WaId"]
    found = next((name for name in (user, sender) if _BSUID.fullmatch(name)), "")
    return Address(phone, found, parent if _BSUID.fullmatch(parent) else "")


def _media(form: Mapping[str, str]) -> tuple[MediaRef, ...]:
    count = form.get("NumMedia", "0")
    number = min(int(count), MEDIA_MAX) if count.isascii() and count.isdigit() else 0
    urls = [
        (form.get(f"MediaUrl{n}", ""), form.get(f"MediaContentType{n}", ""))
        for n in range(number)
    ]
    return tuple(MediaRef(url, kind) for url, kind in urls if url)


def _location(form: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        return float(form["Latitude"]), float(form["Longitude"])
    except (KeyError, ValueError):
        return None
