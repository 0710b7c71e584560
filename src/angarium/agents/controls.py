"""What is to be done to a conversation beside its messages, kept until it is done.

Whoever wants something (an operator on any node, a turn of another conversation) puts a control
into the vault; the gateway that holds the lease works it off in the conversation's own lane.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from angarium.errors import Conflict
from angarium.ids import ConversationId, DeviceId
from angarium.kms.contract import Sealer
from angarium.storage.contract import DropRecord, PutRecord, Record, Vault

ControlKind = Literal["takeover", "reply", "handback", "forget"]
LANE = 0  # In a lane this is no message: look for controls and time-outs.


class Control(msgspec.Struct, omit_defaults=True):
    """`by` is the operator, or the person to forget; `name` is shown to the person."""

    kind: ControlKind
    by: str
    name: str = ""
    text: str = ""
    at_ms: int = 0


class Taken(msgspec.Struct, omit_defaults=True):
    """A conversation that people have or are waited for; what operators see of it."""

    conversation: str
    human: str
    name: str = ""
    agent: str = ""
    since_ms: int = 0
    active_ms: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A control that is to be done. Its id is the key of the message that it makes."""

    conversation: ConversationId
    id: str
    control: Control


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Control).decode
_decode_taken = msgspec.msgpack.Decoder(Taken).decode


class Controls:
    """Of one gateway device. The vault's records are all there is: any node may use it."""

    def __init__(self, vault: Vault, sealer: Sealer, device: DeviceId) -> None:
        self._vault, self._sealer = vault, sealer
        self._scope = f"gateway/{device}/controls"
        self._humans = f"gateway/{device}/humans"

    def put(self, conversation: ConversationId, name: str, control: Control) -> PutRecord:
        """The same `name` again is the same control."""
        return self._put(self._scope, f"{conversation}/{name}", _encode(control))

    async def write(self, conversation: ConversationId, name: str, control: Control) -> None:
        """Put it down for the gateway, unless it is there."""
        with suppress(Conflict):
            put = self.put(conversation, name, control)
            await self._vault.write([replace(put, expect_rev=0)])

    def drop(self, waiting: Waiting) -> DropRecord:
        return DropRecord(self._scope, f"{waiting.conversation}/{waiting.id}")

    async def conversations(self) -> list[ConversationId]:
        """Those for which something is to be done."""
        found = await self._vault.read(self._scope)
        return [ConversationId(name) for name in dict.fromkeys(
            record.key.partition("/")[0] for record in found
        )]  # fmt: skip

    async def waiting(self, conversation: ConversationId) -> Sequence[Waiting]:
        """What is to be done to it, oldest first. Raises SealBroken."""
        found = []
        for record in await self._vault.read(self._scope, f"{conversation}/"):
            control = _decode(self._open(self._scope, record))
            found.append(Waiting(conversation, record.key.partition("/")[2], control))
        return sorted(found, key=lambda one: (one.control.at_ms, one.id))

    # --- who has what -------------------------------------------------------------------------

    def put_taken(self, taken: Taken) -> PutRecord:
        return self._put(self._humans, taken.conversation, _encode(taken))

    def drop_taken(self, conversation: str) -> DropRecord:
        return DropRecord(self._humans, conversation)

    async def taken(self, conversation: str = "") -> list[Taken]:
        """All conversations (or this one) that people have or are waited for."""
        found = await self._vault.read(self._humans, conversation)
        return [_decode_taken(self._open(self._humans, record)) for record in found]

    def _put(self, scope: str, key: str, plain: bytes) -> PutRecord:
        return PutRecord(scope, key, self._sealer.seal(plain, f"{scope}/{key}"))

    def _open(self, scope: str, record: Record) -> bytes:
        return self._sealer.unseal(record.blob, f"{scope}/{record.key}")
