"""A device's own storage in a simulation: what it holds outlives every crash of the device."""

from collections.abc import Sequence

from angarium.errors import Conflict, Unavailable
from angarium.storage.contract import DropRecord, Fence, PutRecord, Record, Write


class MemoryVault:
    """Implements `Vault` for records: all or nothing, and durable for the whole run."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Record]] = {}

    async def read(self, scope: str, prefix: str = "") -> list[Record]:
        held = self._records.get(scope, {})
        return [held[key] for key in sorted(held) if key.startswith(prefix)]

    async def write(self, writes: Sequence[Write], fence: Fence | None = None) -> None:
        records = [write for write in writes if isinstance(write, PutRecord | DropRecord)]
        if len(records) != len(writes):
            raise Unavailable("a person's device keeps records only")
        for record in records:
            self._check(record)
        for record in records:
            self._apply(record)

    def _check(self, write: PutRecord | DropRecord) -> None:
        if isinstance(write, DropRecord) or write.expect_rev is None:
            return
        found = self._records.get(write.scope, {}).get(write.key)
        if (found.rev if found else 0) != write.expect_rev:
            raise Conflict(f"record {write.key} was changed")

    def _apply(self, write: PutRecord | DropRecord) -> None:
        held = self._records.setdefault(write.scope, {})
        if isinstance(write, DropRecord):
            held.pop(write.key, None)
            return
        found = held.get(write.key)
        rev = found.rev + 1 if found else 1
        held[write.key] = Record(write.scope, write.key, rev, write.blob)
