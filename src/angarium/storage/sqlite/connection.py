"""How a connection is opened, and what SQLite's errors mean in our words."""

import errno
import os
import sqlite3
import time
from pathlib import Path

from angarium.errors import AngariumError, DiskFull, StoreUnwritable, Unavailable
from angarium.limits import STORE_BUSY_MS, STORE_OPEN_ATTEMPTS
from angarium.storage.files import make_folder, sync_folder

FILE_NAME = "angarium.db"
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT})
_UNWRITABLE = {
    sqlite3.SQLITE_READONLY: "the store is read-only; make its folder writable",
    sqlite3.SQLITE_CANTOPEN: "the store cannot be opened; check its folder and permissions",
    sqlite3.SQLITE_PERM: "the store may not be accessed; check its permissions",
    sqlite3.SQLITE_IOERR: "the disk reports an error; nothing acknowledged is lost",
    sqlite3.SQLITE_CORRUPT: "the store is damaged; run `angarium db check`, restore a backup",
    sqlite3.SQLITE_NOTADB: "the store's file is not a database; restore a backup",
}


def translate(error: sqlite3.Error) -> AngariumError:
    """The product's error for one of SQLite's; carries no statement and no value."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _BUSY:
        return Unavailable("another process is writing; try again", after_ms=500)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("the disk of the store is full; free space and go on")
    if code in _UNWRITABLE:
        return StoreUnwritable(_UNWRITABLE[code])
    return Unavailable(f"the store failed ({getattr(error, 'sqlite_errorname', 'closed')})")


def connect_memory() -> sqlite3.Connection:
    """A private database in memory, usable from any one thread at a time."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def connect(folder: Path, *, autocheckpoint_pages: int = 0) -> sqlite3.Connection:
    """A connection to the store's file: WAL, every commit durable. Creates file and folder.

    Raises StoreUnwritable, DiskFull or Unavailable.
    """
    path = folder / FILE_NAME
    try:
        make_folder(folder)
        if not _create(path):
            _demand_writable(path)
        else:
            sync_folder(folder)
    except OSError as error:
        raise StoreUnwritable(
            f"cannot write {path}: {error.strerror}; make it writable or set another `data`"
        ) from None
    connection = sqlite3.connect(
        path,
        timeout=STORE_BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        _prepare(connection, autocheckpoint_pages)
    except sqlite3.Error as error:
        connection.close()
        raise translate(error) from None
    return connection


def _create(path: Path) -> bool:
    """Make the file, readable by its owner only; False when it is there.

    A file that is there is never opened: closing any descriptor of it would drop the locks that
    SQLite holds for this whole process, and another process that closes the store would then
    take itself for the last one and delete the log that this one still writes to.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _demand_writable(path: Path) -> None:
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied")


def _prepare(connection: sqlite3.Connection, autocheckpoint_pages: int) -> None:
    for attempt in range(STORE_OPEN_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait for this lock by itself when two processes create the file.
            if attempt + 1 == STORE_OPEN_ATTEMPTS or error.sqlite_errorcode & 0xFF not in _BUSY:
                raise
            time.sleep(0.01 * (attempt + 1))
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={autocheckpoint_pages}").fetchone()
    connection.execute("PRAGMA secure_delete=ON").fetchone()  # Purged means gone.
    connection.execute("PRAGMA cache_size=-65536")
    connection.execute("PRAGMA temp_store=MEMORY")
