import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from angarium.clock import ManualClock
from angarium.errors import SchemaMismatch
from angarium.storage.care import migrate, schema_version
from angarium.storage.schema import MIGRATIONS, check_version, upgrade, version_of
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import open_sqlite

OLD = ("CREATE TABLE a (x)",)
NEW = (*OLD, "CREATE TABLE b (y); INSERT INTO b VALUES (1)")


def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def open_and_close(folder: Path) -> None:
    async def scenario() -> None:
        await (await open_sqlite(folder, ManualClock())).close()

    asyncio.run(scenario())


def test_an_empty_file_has_version_zero_and_gets_every_migration() -> None:
    with closing(memory()) as connection:
        assert version_of(connection) == 0
        assert upgrade(connection, 5, NEW) == (0, 2)
        assert version_of(connection) == 2
        rows = connection.execute("SELECT * FROM schema_versions").fetchall()
        assert rows == [(1, 5), (2, 5)]


def test_only_what_is_missing_is_applied() -> None:
    with closing(memory()) as connection:
        upgrade(connection, 5, OLD)
        assert upgrade(connection, 6, NEW) == (1, 2)
        assert upgrade(connection, 7, NEW) == (2, 2)
        assert connection.execute("SELECT count(*) FROM b").fetchone() == (1,)


def test_a_migration_that_fails_leaves_the_old_version_whole() -> None:
    with closing(memory()) as connection:
        upgrade(connection, 5, OLD)
        with pytest.raises(sqlite3.OperationalError):
            upgrade(connection, 6, (*OLD, "CREATE TABLE b (y); NONSENSE"))
        assert version_of(connection) == 1
        assert upgrade(connection, 7, NEW) == (1, 2)


def test_an_older_store_is_told_to_migrate_and_a_newer_one_to_upgrade() -> None:
    with closing(memory()) as connection:
        upgrade(connection, 5, OLD)
        with pytest.raises(SchemaMismatch, match="angarium db migrate"):
            check_version(connection, 2)
        upgrade(connection, 6, NEW)
        with pytest.raises(SchemaMismatch, match="newer Angarium"):
            check_version(connection, 1)
        with pytest.raises(SchemaMismatch, match="newer Angarium"):
            upgrade(connection, 7, OLD)


def test_a_fresh_folder_is_created_at_our_version(tmp_path: Path) -> None:
    open_and_close(tmp_path / "data")
    assert schema_version(tmp_path / "data") == len(MIGRATIONS)
    assert migrate(tmp_path / "data") == (len(MIGRATIONS), len(MIGRATIONS))


def test_a_store_of_another_version_is_not_opened(tmp_path: Path) -> None:
    open_and_close(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("UPDATE schema_versions SET version = 99")
        connection.commit()
    with pytest.raises(SchemaMismatch, match="99"):
        open_and_close(tmp_path)


def test_a_foreign_database_is_not_touched(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    with pytest.raises(SchemaMismatch, match="not an Angarium store"):
        open_and_close(tmp_path)


def test_two_stores_that_create_one_folder_at_once_agree(tmp_path: Path) -> None:
    async def scenario() -> None:
        stores = await asyncio.gather(
            *(open_sqlite(tmp_path / "data", ManualClock()) for _ in range(6))
        )
        for store in stores:
            await store.check()
            await store.close()

    asyncio.run(scenario())
