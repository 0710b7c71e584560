"""The store that the settings name."""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from angarium.clock import Clock
from angarium.config import Settings
from angarium.errors import Misconfigured
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import open_sqlite


class OpenedStore(Protocol):
    """A store that is open; close it."""

    store: Store
    clock: Clock  # The time that all nodes on this store share.
    cluster: str  # A name that all nodes on this store find; empty: there is one node.

    async def check(self) -> None:
        """Prove by a durable write that it works. Raises Unavailable and its kinds."""
        ...

    def figures(self) -> Mapping[str, int | float]: ...

    async def close(self) -> None: ...


async def open_store(settings: Settings, clock: Clock) -> OpenedStore:
    """The embedded store in the data folder, or the one that `store_url` names.

    Raises Misconfigured, SchemaMismatch, StoreUnwritable or Unavailable.
    """
    url = settings.store_url.get_secret_value()
    if not url:
        return await open_sqlite(settings.data, clock)
    check_shared(settings)
    try:
        from angarium.storage.mongo.store import open_mongo
    except ImportError:
        raise Misconfigured(
            "store_url names MongoDB and its driver is not installed: "
            "install it with `pip install 'angarium[cluster]'`"
        ) from None
    return await open_mongo(url, clock, database=database_of(url), server_time=True)


def database_of(url: str) -> str:
    """The database a `mongodb://` URL names; `angarium` when it names none."""
    return urlsplit(url).path.strip("/") or "angarium"


def check_shared(settings: Settings) -> None:
    """What nodes on one store must agree on is said, not made up. Raises Misconfigured."""
    if not settings.token_secret.get_secret_value():
        raise Misconfigured(
            "store_url is set, so several nodes may serve one store: set token_secret, "
            "the same for all of them"
        )
    if not settings.kms_url:
        raise Misconfigured(
            "store_url is set, so several nodes may serve one store: set kms_url, "
            "e.g. local:///shared/kms.json, the same for all of them"
        )
