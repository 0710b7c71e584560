"""Stores as the command line names them: `sqlite://FOLDER` and `mongodb://HOST/DATABASE`."""

import asyncio
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from angarium.clock import SystemClock
from angarium.config import Settings
from angarium.errors import Misconfigured
from angarium.server.ownership import demand_rest
from angarium.storage import care
from angarium.storage.report import Report
from angarium.storage.transfer import Target

_MONGO = re.compile(r"(mongodb(?:\+srv)?)://(.+)", re.DOTALL)
_WITHOUT_SECRETS = re.compile(r"(?:[^@/?#]*@)?([\w.,:\[\]-]+)(?:/([\w-]*))?(?:\?[^@]*)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: a data folder, or the URL of a database."""

    folder: Path | None = None
    url: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """Its name for people, without what a URL may carry of secrets."""
        if self.folder is not None:
            return f"sqlite://{self.folder}"
        scheme, _, rest = self.url.partition("://")
        found = _WITHOUT_SECRETS.fullmatch(rest)
        if found is None:
            return f"{scheme}://..."
        return f"{scheme}://{found[1]}/{self.database}"

    @property
    def database(self) -> str:
        from angarium.adapters.store import database_of

        return database_of(self.url)


def place_of(url: str) -> Place:
    """The store that a URL names. Raises Misconfigured."""
    if url.startswith("sqlite://"):
        folder = url.removeprefix("sqlite://")
        if folder:
            return Place(folder=Path(folder))
    elif _MONGO.fullmatch(url):
        return Place(url=url)
    raise Misconfigured("name a store as sqlite://FOLDER or mongodb://HOST/DATABASE")


def place_of_settings(settings: Settings) -> Place:
    """The store that a node with these settings opens. Raises Misconfigured."""
    url = settings.store_url.get_secret_value()
    return place_of(url) if url else Place(folder=settings.data)


def transfer(place: Place) -> Target:
    """The store as an end of a copy; close it. Raises Misconfigured."""
    if place.folder is not None:
        from angarium.storage.sqlite.transfer import SqliteTransfer

        return SqliteTransfer(place.folder, SystemClock())
    _demand_driver()
    from angarium.storage.mongo.transfer import MongoTransfer

    return MongoTransfer(place.url, database=place.database)


def demand_still(place: Place) -> None:
    """Raises StoreInUse when a node of this machine serves the folder."""
    if place.folder is not None:
        demand_rest(place.folder)


def migrate(place: Place) -> tuple[int, int]:
    """Bring the store to our schema; the versions before and after."""
    if place.folder is not None:
        return care.migrate(place.folder)
    _demand_driver()
    from angarium.storage.mongo.schema import migrate as migrate_database

    return asyncio.run(migrate_database(place.url, database=place.database))


def check(place: Place) -> Report:
    """Look for damage."""
    if place.folder is not None:
        return care.check(place.folder)
    _demand_driver()
    from angarium.storage.mongo.check import check as check_database

    return asyncio.run(check_database(place.url, database=place.database))


def _demand_driver() -> None:
    if find_spec("pymongo") is None:
        raise Misconfigured(
            "MongoDB's driver is not installed: "
            "install it with `pip install 'angarium[cluster]'`"
        )
