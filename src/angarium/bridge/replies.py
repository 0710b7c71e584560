"""From a message of the gateway to deliveries: rendered, cut to the channel's size, sealed."""

from collections.abc import Sequence

import msgspec

from angarium.bridge.identity import delivery_id
from angarium.channels.whatsapp import render, split_text, with_options
from angarium.ids import UserId
from angarium.kms.contract import Sealer
from angarium.limits import OUTBOX_KEPT_S
from angarium.sdk.contract import Received
from angarium.storage.contract import Delivery, PutDelivery

PIECES_MAX = 100  # Of one message; `order` leaves room for so many. What is over is not sent.
_SHOWN = frozenset({"text", "question", "system"})


class OutgoingText(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sealed content of a delivery. `since_ms`: when its first request may have left;
    `lookups`: how often the provider's list did not have it; `failed`: provider ids of earlier
    attempts that surely failed."""

    text: str
    conversation: str = ""
    sequence: int = 0
    notice: bool = False
    since_ms: int = 0
    lookups: int = 0
    failed: tuple[str, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OutgoingText).decode


def seal_text(sealer: Sealer, delivery: str, text: OutgoingText) -> bytes:
    return sealer.seal(_encode(text), f"delivery/{delivery}")


def open_text(sealer: Sealer, delivery: Delivery) -> OutgoingText:
    """Raises SealBroken."""
    return _decode(sealer.unseal(delivery.body, f"delivery/{delivery.id}"))


def plan_deliveries(
    received: Received,
    *,
    channel: str,
    contact: UserId,
    gateway: UserId,
    chars_max: int,
    sealer: Sealer,
    now_ms: int,
) -> list[PutDelivery]:
    """What the contact shall get of this message: nothing unless the gateway wrote it. The same
    message gives the same ids, so planning again after a crash adds nothing."""
    body = received.body
    if received.sender != gateway or received.own or received.problem:
        return []
    if body.type not in _SHOWN:
        return []
    pieces = split_text(
        _shown(body.text, body.options, [file.name for file in body.files]), chars_max
    )
    plan = []
    for piece, text in enumerate(pieces[:PIECES_MAX]):
        name = delivery_id(received.conversation, received.sequence, piece)
        content = OutgoingText(text, received.conversation, received.sequence)
        plan.append(
            new_delivery(
                name, channel, contact, received.sequence * PIECES_MAX + piece,
                seal_text(sealer, name, content), now_ms,
            )
        )  # fmt: skip
    return plan


def new_delivery(
    name: str, channel: str, contact: UserId, order: int, body: bytes, now_ms: int
) -> PutDelivery:
    """A pending delivery that is due now and expires unsent after OUTBOX_KEPT_S."""
    delivery = Delivery(
        name, channel, contact, order, "pending", body,
        due_ms=now_ms, expires_ms=now_ms + OUTBOX_KEPT_S * 1000, updated_ms=now_ms,
    )  # fmt: skip
    return PutDelivery(delivery, only_new=True)


def _shown(text: str, options: Sequence[str], files: Sequence[str]) -> str:
    notes = [f"[file: {name}]" for name in files]
    return "\n".join([with_options(render(text), options), *notes])
