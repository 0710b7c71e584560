"""Who this process is to leases: the same after a crash, if no other process can be it.

A lease outlives its owner by up to LEASE_TTL_S. On one machine the kernel knows better: a lock
on a file is gone when its process is, however it died. Whoever holds the lock of a data folder
takes up the name kept there, and with it the leases of the process before.
"""

import fcntl
import os
import secrets
from pathlib import Path

from angarium.errors import StoreInUse, StoreUnwritable


class Ownership:
    """The name under which a process holds leases. Keep it until the process ends."""

    def __init__(self, folder: Path, services: set[str]) -> None:
        """Processes with the same services in the same folder compete; the first gets the kept
        name, the others a fresh one. Raises StoreUnwritable."""
        path = folder / f"owner-{'-'.join(sorted(services))}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.name = self._take(self._handle)
        except OSError as error:
            raise StoreUnwritable(
                f"{folder}: {error.strerror}; make it writable or set another `data`"
            ) from None

    @staticmethod
    def _take(handle: int) -> str:
        fresh = secrets.token_hex(8)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return fresh
        kept = os.pread(handle, 64, 0).decode(errors="replace").strip()
        if len(kept) == len(fresh):
            return kept
        os.pwrite(handle, fresh.encode(), 0)
        os.fsync(handle)
        return fresh

    def close(self) -> None:
        """Give the name up; leases must be released before."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def demand_rest(folder: Path) -> None:
    """Raises StoreInUse when a process serves this data folder."""
    for path in folder.glob("owner-*"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # Gone meanwhile, or another account's; the store's own lock decides.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreInUse(f"a node serves {folder}: stop it first") from None
        finally:
            os.close(handle)
