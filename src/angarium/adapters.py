"""Which store, bus and channel the settings name, opened. Only this file knows them all.

What one machine does not need is imported when it is asked for: MongoDB's and Redis' drivers
come with the extra `cluster`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import httpx2

from angarium.bus.contract import Bus
from angarium.bus.local import LocalBus
from angarium.bus.registry import OnLost, Registry
from angarium.channels.guarded import GuardedChannel
from angarium.channels.twilio import Twilio
from angarium.channels.twilio_account import development_twilio
from angarium.clock import Clock
from angarium.config import Settings
from angarium.errors import AngariumError, Misconfigured
from angarium.limits import NODE_LEASE_RENEW_S
from angarium.resilience import Breaker
from angarium.storage.contract import Store
from angarium.storage.sqlite.store import open_sqlite
from angarium.telemetry.log import get_logger

Figures = Callable[[], Mapping[str, int | float]]
log = get_logger("angarium.node")


class OpenedStore(Protocol):
    """A store that is open; close it."""

    store: Store

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
    return await open_mongo(url, clock, database=database_of(url))


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


class Wire:
    """How nodes tell each other what is new. Run `keep_lease` while this one serves."""

    def __init__(
        self,
        bus: Bus,
        hears: Callable[[], bool],
        *,
        registry: Registry | None = None,
        figures: Figures | None = None,
        closing: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self.bus, self.hears = bus, hears
        self.registry, self.figures = registry, figures
        self._closing = closing

    async def keep_lease(self) -> None:
        """Renew this node's lease until cancelled; then it is given back. Redis may be away."""
        if self.registry is None:
            return
        try:
            while True:
                try:
                    await self.registry.renew()
                except AngariumError as error:
                    log.warning("registry.delayed", code=error.code)
                await asyncio.sleep(NODE_LEASE_RENEW_S)
        finally:
            try:
                await self.registry.release()
            except AngariumError:
                pass  # It ends by itself.

    async def close(self) -> None:
        """Say what waits, and hear no more."""
        for close in self._closing:
            await close()


async def open_wire(settings: Settings, node: str, clock: Clock, on_lost: OnLost) -> Wire:
    """The bus inside this process, or Redis where `bus_url` is set. Raises Misconfigured."""
    url = settings.bus_url.get_secret_value()
    alone = not settings.store_url.get_secret_value()
    if not url:
        # Without doorbells from other nodes, the store is asked each second.
        return Wire(LocalBus(), lambda: alone)
    if alone:
        raise Misconfigured("bus_url is set and store_url is not: nodes share both or neither")
    from angarium.bus.redis import open_redis_bus
    from angarium.bus.redis_link import open_link
    from angarium.bus.redis_registry import RedisRegistry

    bus = await open_redis_bus(url)
    link = open_link(url)

    return Wire(
        bus,
        lambda: bus.hears,
        registry=RedisRegistry(link, node, clock, on_lost=on_lost),
        figures=bus.figures,
        closing=(bus.close, link.close),
    )


def open_channel(
    settings: Settings, http: httpx2.AsyncClient, public_url: str, clock: Clock
) -> GuardedChannel:
    """The WhatsApp channel behind its breaker. Raises Misconfigured."""
    account, tokens, _ = twilio_account(settings)
    phone = f"http://127.0.0.1:{settings.phone_port}"
    channel = Twilio(
        account_sid=account,
        auth_tokens=tokens,
        status_url=f"{public_url}/webhooks/twilio/status",
        http=http,
        # Without an account, the phone simulator's API on this machine.
        api_base=settings.twilio_api_base if settings.twilio_account_sid else phone,
    )
    return GuardedChannel(channel, Breaker("twilio", clock))


def twilio_account(settings: Settings) -> tuple[str, tuple[str, ...], str]:
    """(account, its tokens, our number). Raises Misconfigured."""
    if settings.twilio_account_sid:
        tokens = (settings.twilio_auth_token, settings.twilio_auth_token_old)
        given = tuple(token.get_secret_value() for token in tokens)
        return settings.twilio_account_sid, given, settings.twilio_sender
    if settings.environment == "production":
        raise Misconfigured("set twilio_account_sid, or serve without the bridge")
    account, token, number = development_twilio(settings.data)
    return account, (token,), number
