"""A data key of one conversation's or person's own, itself sealed under the service's key.

What it sealed is gone for good once its record is dropped, also where a log or a free page of
the store still holds the sealed bytes.
"""

import os
from collections.abc import Sequence

from angarium.errors import SealBroken
from angarium.ids import RandomBytes
from angarium.kms.contract import Sealer
from angarium.kms.sealer import DataKeySealer
from angarium.storage.contract import DropRecord, PutRecord, Record, Vault

_KEY_BYTES = 32
KEY = "key"


class OwnKey:
    """Seals and unseals the records of its owner, whose keys in `scope` start with `owner/`."""

    def __init__(
        self, service: Sealer, scope: str, owner: str, random_bytes: RandomBytes = os.urandom
    ) -> None:
        self._service, self._scope, self._owner = service, scope, owner
        self._random_bytes = random_bytes
        self.renew()

    def renew(self) -> None:
        """A new key; what the old one sealed does not open any more."""
        self._key = self._random_bytes(_KEY_BYTES)
        self._sealer = DataKeySealer(self._key, self._random_bytes)
        self._stored = False

    @property
    def _place(self) -> str:
        return f"{self._scope}/{self._owner}/{KEY}"

    def load(self, record: Record) -> None:
        """Raises SealBroken."""
        self._key = self._service.unseal(record.blob, self._place)
        self._sealer = DataKeySealer(self._key, self._random_bytes)
        self._stored = True

    def put(self, key: str, plain: bytes, scope: str = "") -> list[PutRecord]:
        """The writes that keep `plain` as record `key`; the data key goes first, where the
        store had none when it was loaded."""
        place = scope or self._scope
        record = PutRecord(place, key, self._sealer.seal(plain, f"{place}/{key}"))
        if self._stored:
            return [record]
        wrapped = self._service.seal(self._key, self._place)
        return [PutRecord(self._scope, f"{self._owner}/{KEY}", wrapped), record]

    def open(self, scope: str, record: Record) -> bytes:
        """Raises SealBroken. What was sealed before there were own keys opens, too."""
        place = f"{scope}/{record.key}"
        try:
            return self._sealer.unseal(record.blob, place)
        except SealBroken:
            return self._service.unseal(record.blob, place)

    def drop(self) -> DropRecord:
        return DropRecord(self._scope, f"{self._owner}/{KEY}")


async def read_owned(
    vault: Vault, service: Sealer, scope: str, owner: str
) -> tuple[OwnKey, Sequence[Record]]:
    """The key of `owner` (a new one where there is none) and the other records of it."""
    key, others = OwnKey(service, scope, owner), []
    for record in await vault.read(scope, f"{owner}/"):
        if record.key == f"{owner}/{KEY}":
            key.load(record)
        else:
            others.append(record)
    return key, others
