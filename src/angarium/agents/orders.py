"""What operators ask of a gateway about one turn, written into the store: whoever holds the
device's lease finds it there and does it, once."""

from typing import Literal, cast, get_args

from angarium.ids import ConversationId
from angarium.storage.contract import DropRecord, PutRecord, Record

Verb = Literal["replay", "cancel"]
TurnId = tuple[ConversationId, int]
SCOPE = "gateway/orders"


def put_order(verb: Verb, conversation: ConversationId, sequence: int) -> PutRecord:
    """The write that asks for it; asking again, or for the other, replaces it."""
    return PutRecord(SCOPE, f"{conversation}/{sequence}", verb.encode())


def drop_order(turn: TurnId) -> DropRecord:
    """The write that says it is done."""
    return DropRecord(SCOPE, f"{turn[0]}/{turn[1]}")


def read_order(record: Record) -> tuple[TurnId, Verb] | None:
    """Which turn, and what to do; None for a record that is no order."""
    conversation, _, sequence = record.key.rpartition("/")
    verb = record.blob.decode(errors="replace")
    if not sequence.isdecimal() or verb not in get_args(Verb):
        return None
    return (ConversationId(conversation), int(sequence)), cast(Verb, verb)
