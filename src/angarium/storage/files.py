"""Files and folders that are private and survive a power cut."""

import errno
import os
from pathlib import Path

from angarium.errors import AngariumError, DiskFull, StoreUnwritable


def translate_os(error: OSError) -> AngariumError:
    """The product's error for one of the file system's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk of the store is full; free space and go on")
    return StoreUnwritable(f"a file of the store cannot be used: {error.strerror}")


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whatever happens meanwhile."""
    make_folder(path.parent)
    beside = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, for the owner only and durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)
