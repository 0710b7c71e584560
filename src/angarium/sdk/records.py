"""What a device keeps of itself, sealed: its engine, its conversations, its outbox.

A record is sealed for its place (`scope/key`), so that it opens nowhere else.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from angarium.e2ee.body import Body
from angarium.e2ee.engine import Change
from angarium.errors import SealBroken
from angarium.kms.contract import Sealer
from angarium.protocol.frames import Sealed
from angarium.storage.contract import DropRecord, PutRecord, Record, Vault, Write

ENGINE = "engine/"
TALK = "talk/"
OUT = "out/"
SELF = "self"
UNSEALED = "unsealed/"

Shape = TypeVar("Shape")


class TalkRecord(msgspec.Struct, array_like=True):
    """A conversation: where this device stands in it. `recent` maps the newest submitted keys
    to their sequences (0: not stored yet); `members` are who took part when last asked."""

    c: str
    epoch: int = 0
    cursor: int = 0
    cs: int = 0
    recent: dict[str, int] = {}
    chain: bytes = b""
    members: list[str] = []


class OutRecord(msgspec.Struct, array_like=True):
    """A submitted message until it is seen in the log: the same bytes leave on every try."""

    c: str
    key: str
    cs: int
    inner: bytes
    body: Body
    to: list[Sealed]
    stream: bytes


class SelfRecord(msgspec.Struct, array_like=True):
    published: bool = False


def unsealed_place(conversation: str, sequence: int) -> str:
    """Where the inside of a message waits while its sender's keys are fetched."""
    return f"{UNSEALED}{conversation}/{sequence}"


class Records:
    """Sealing and opening of one device's records."""

    def __init__(self, vault: Vault, sealer: Sealer, scope: str) -> None:
        self._vault, self._sealer, self.scope = vault, sealer, scope
        self._encode = msgspec.msgpack.Encoder().encode

    def put(self, key: str, record: msgspec.Struct | bytes) -> PutRecord:
        plain = record if isinstance(record, bytes) else self._encode(record)
        return PutRecord(self.scope, key, self._sealer.seal(plain, self._place(key)))

    def drop(self, key: str) -> DropRecord:
        return DropRecord(self.scope, key)

    def changes(self, changes: Iterable[Change]) -> list[Write]:
        """An engine's changes as writes."""
        return [
            self.drop(ENGINE + change.key)
            if change.value is None
            else self.put(ENGINE + change.key, change.value)
            for change in changes
        ]

    def open(self, record: Record) -> bytes:
        """Raises SealBroken."""
        return self._sealer.unseal(record.blob, self._place(record.key))

    async def engine_records(self) -> dict[str, bytes]:
        return {
            record.key.removeprefix(ENGINE): self.open(record)
            for record in await self._vault.read(self.scope, ENGINE)
        }

    async def talks(self) -> Sequence[TalkRecord]:
        return [self._parse(r, TalkRecord) for r in await self._vault.read(self.scope, TALK)]

    async def outs(self) -> Sequence[OutRecord]:
        """In counter order."""
        found = [self._parse(r, OutRecord) for r in await self._vault.read(self.scope, OUT)]
        return sorted(found, key=lambda out: (out.c, out.cs))

    async def unsealed(self) -> dict[str, bytes]:
        """By place: what was unsealed and not shown yet."""
        found = await self._vault.read(self.scope, UNSEALED)
        return {record.key: self.open(record) for record in found}

    async def own(self) -> SelfRecord:
        found = [self._parse(r, SelfRecord) for r in await self._vault.read(self.scope, SELF)]
        return found[0] if found else SelfRecord()

    def _parse(self, record: Record, kind: type[Shape]) -> Shape:
        try:
            return msgspec.msgpack.decode(self.open(record), type=kind)
        except msgspec.MsgspecError:
            raise SealBroken(f"the record {record.key} has another shape") from None

    def _place(self, key: str) -> str:
        return f"{self.scope}/{key}"
