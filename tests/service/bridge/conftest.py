"""A whole bridge without a socket: the real store, adapter, door and simulator; a relay in
memory. Everything the bridge awaits can be made to be the last thing it did."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import FastAPI

from angarium.bridge.bridge import Bridge
from angarium.bridge.contacts import Contacts
from angarium.bridge.policy import Policy
from angarium.channels.twilio import Twilio
from angarium.clock import ManualClock
from angarium.e2ee.body import Body
from angarium.errors import AngariumError, SealBroken, Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.sdk.contract import Delivered, Received, Sink
from angarium.server.webhooks import webhook_router
from angarium.storage.contract import Store, Write
from angarium.testing.agents import OpenStore, in_memory
from angarium.testing.phone import Faults, PhoneSimulator
from angarium.testing.phone_api import ApiRequest

GATEWAY = UserId("@gateway:angarium")
OURS = "whatsapp:+15550006060"
ACCOUNT, TOKEN = "AC" + "1" * 32, "a token"
BASE = "https://chat.example.com"
WEBHOOKS = f"{BASE}/webhooks/twilio"


class Killed(BaseException):
    """The process ends here."""


class Bomb:
    """Kills the process at its `at`-th await, before or after what is awaited has happened."""

    def __init__(self, at: int = 0, after: bool = False) -> None:
        self.at, self.after = at, after
        self.count, self.dead = 0, False

    async def through(self, do: Callable[[], Awaitable[Any]]) -> Any:
        if self.dead:
            raise Killed
        self.count += 1
        mine = self.count == self.at
        if mine and not self.after:
            self.dead = True
            raise Killed
        answer = await do()
        if mine or self.dead:
            self.dead = True
            raise Killed
        return answer


class Mortal:
    """Something of which every awaited method may be the process's last."""

    def __init__(self, part: Any, bomb: Bomb) -> None:
        self._part, self._bomb = part, bomb

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._bomb.through(lambda: found(*arguments, **named))

        return call


class PlaceSealer:
    """AES-GCM bound to the place, with one key."""

    def __init__(self) -> None:
        self._key = AESGCM(os.urandom(32))

    def seal(self, plaintext: bytes, place: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._key.encrypt(nonce, plaintext, place.encode())

    def unseal(self, blob: bytes, place: str) -> bytes:
        try:
            return self._key.decrypt(blob[:12], blob[12:], place.encode())
        except InvalidTag:
            raise SealBroken("another place, or changed bytes") from None


class Relay:
    """The log of each conversation, kept by message key, and the agent at the other end."""

    def __init__(self) -> None:
        self.logs: dict[ConversationId, list[Received]] = {}
        self.open: dict[UserId, RelayEndpoint] = {}
        self.cursors: dict[UserId, int] = {}
        self.read: list[tuple[UserId, int]] = []
        self.answer: Callable[[Body], Sequence[Body]] = lambda body: [
            Body(text="re: " + body.text)
        ]
        self.refuse: BaseException | None = None
        self.broken: dict[UserId, bool] = {}

    def add(self, conversation: ConversationId, sender: UserId, key: str, body: Body) -> None:
        log = self.logs.setdefault(conversation, [])
        if all(message.key != key for message in log):
            log.append(
                Received(
                    conversation, len(log) + 1, MessageKey(key), sender, DeviceId("DEVICE"),
                    0, body,
                )
            )  # fmt: skip

    def texts(self, conversation: str = "") -> list[str]:
        """What contacts wrote, in order."""
        return [
            message.body.text
            for name, log in self.logs.items()
            for message in log
            if message.sender != GATEWAY and (not conversation or name == conversation)
        ]

    async def pump(self) -> None:
        """The agent answers what is unanswered; open devices receive."""
        for conversation, log in self.logs.items():
            for message in list(log):
                if message.sender != GATEWAY:
                    for index, body in enumerate(self.answer(message.body)):
                        self.add(conversation, GATEWAY, f"{message.key}/{index}", body)
        for endpoint in list(self.open.values()):
            await endpoint.receive()


class RelayEndpoint:
    """A contact's device at that relay: receives in order, each message in one write."""

    def __init__(self, user: UserId, sink: Sink, relay: Relay, vault: Any) -> None:
        self.user, self.device = user, DeviceId("DEV" + user[4:14].upper())
        self.sink, self._relay, self._vault = sink, relay, vault
        self.ended = False
        self.error: AngariumError | None = None
        self.closing: asyncio.Event | None = None

    async def wait_ended(self) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        if self._relay.refuse is not None:
            raise self._relay.refuse
        self._relay.open[self.user] = self

    async def close(self) -> None:
        if self.closing is not None:
            await self.closing.wait()
        self._relay.open.pop(self.user, None)

    async def converse(self, users: Sequence[UserId]) -> ConversationId:
        return ConversationId(f"c-{self.user}")

    async def submit(
        self, conversation: ConversationId, body: Body, key: MessageKey | None = None,
        also: Sequence[Write] = (),
    ) -> MessageKey:  # fmt: skip
        assert key is not None
        if self._relay.broken.pop(self.user, None):
            self.ended = True
        if self.ended:
            raise Unavailable("this device has ended")
        self._relay.add(conversation, self.user, key, body)
        return key

    async def sent(self, key: MessageKey) -> Delivered:
        raise NotImplementedError

    def part(self, *_: Any) -> None: ...

    def typing(self, *_: Any) -> None: ...

    def mark_read(self, conversation: ConversationId, sequence: int) -> None:
        self._relay.read.append((self.user, sequence))

    async def receive(self) -> None:
        if self.error is not None:
            return
        log = self._relay.logs.get(ConversationId(f"c-{self.user}"), [])
        for message in log[self._relay.cursors.get(self.user, 0) :]:
            writes = self.sink.plan(message)
            if writes:
                await self._vault.write(writes)
            self._relay.cursors[self.user] = message.sequence
            self.sink.committed(message)


class ApiTransport(httpx2.AsyncBaseTransport):
    """Requests of the adapter go straight to the simulator; its silences become time-outs."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._world.api_down:
            raise httpx2.ConnectError("refused", request=request)
        url = urlsplit(str(request.url))
        headers = {name.lower(): value for name, value in request.headers.items()}
        form = dict(parse_qsl((await request.aread()).decode(), keep_blank_values=True))
        asked = ApiRequest(request.method, url.path, dict(parse_qsl(url.query)), headers, form)
        answer = await self._world.phones.answer_api(asked)
        if answer.silent:
            raise httpx2.ReadTimeout("no answer", request=request)
        return httpx2.Response(answer.status, headers=answer.headers, json=answer.body)


class World:
    """One node's bridge over one store; it can die and start again."""

    def __init__(self, store: Store, clock: ManualClock, faults: Faults, seed: int) -> None:
        self.store, self.clock, self.relay = store, clock, Relay()
        self.sealer, self.secret = PlaceSealer(), b"k" * 32
        self.counts: dict[str, int] = {}
        self.api_down = False
        self.policy_options: dict[str, Any] = {}
        self.rate_per_minute = 10_000
        app = FastAPI()
        app.include_router(
            webhook_router(
                channel=self.twilio(), inbox=store.webhooks, seal=self.sealer, clock=clock,
                public_base_url=BASE, wake=lambda: None,
            )
        )  # fmt: skip
        self.door = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="http://inside.local"
        )
        self.phones = PhoneSimulator(
            webhook_url=WEBHOOKS + "#rc=3&rp=ct,rt,5xx", account_sid=ACCOUNT, auth_token=TOKEN,
            our_number=OURS, clock=clock, faults=faults, seed=seed, retry_wait_s=0.0,
            http=self.door,
        )  # fmt: skip
        self.bomb = Bomb()
        self.bridge = self.new_bridge()

    def twilio(self) -> Twilio:
        return Twilio(
            account_sid=ACCOUNT, auth_tokens=[TOKEN], status_url=WEBHOOKS + "/status",
            http=httpx2.AsyncClient(transport=ApiTransport(self)),
        )  # fmt: skip

    def new_bridge(self) -> Bridge:
        bomb, store = self.bomb, self.store
        vault: Any = Mortal(store.vault, bomb)
        self.relay.open.clear()

        def endpoint(user: UserId, sink: Sink) -> Any:
            return Mortal(RelayEndpoint(user, sink, self.relay, vault), bomb)

        parts: dict[str, Any] = {
            "channel": Mortal(self.twilio(), bomb),
            "webhooks": Mortal(store.webhooks, bomb),
            "outbox": Mortal(store.outbox, bomb),
            "leases": Mortal(store.leases, bomb),
        }
        return Bridge(
            **parts, vault=vault, make_endpoint=endpoint, sealer=self.sealer,
            contacts=Contacts(
                channel="twilio", vault=vault, sealer=self.sealer, key=self.secret,
                domain="angarium",
            ),
            policy=Policy(**self.policy_options), clock=self.clock, gateway_user=GATEWAY,
            owner="me", count=self.count, rate_per_minute=self.rate_per_minute,
        )  # fmt: skip

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    async def boot(self, bomb: Bomb | None = None) -> None:
        """Start anew from the store alone."""
        self.bomb = bomb or Bomb()
        self.bridge = self.new_bridge()
        await self.bridge.start()
        await self.bridge.connections.reopen()

    async def turn(self) -> int:
        """Everything that can happen now, once."""
        done = await self.bridge.work_inbox()
        await self.relay.pump()
        done += await self.bridge.work_outbox()
        await self.phones.settled()
        return done

    async def settle(self, turns_max: int = 400, step_s: float = 6.0) -> None:
        """Go on, and let time pass where nothing else happens, until all work is done."""
        for _ in range(turns_max):
            if await self.turn() == 0:
                if await self.is_idle():
                    return
                self.clock.advance(step_s)
        raise AssertionError("the bridge does not come to rest")

    async def is_idle(self) -> bool:
        far_ms = self.clock.now_ms() + 10**9
        waiting = await self.store.outbox.list_due("twilio", far_ms, 10)
        return not waiting and not await self.store.webhooks.list_open("twilio", 1)

    async def deliveries(self) -> list[Any]:
        return await self.store.outbox.list_recent(1000)


MakeWorld = Callable[..., Any]


@pytest.fixture
def make_world() -> MakeWorld:
    """`async with make_world(...) as world`: started, and closed afterwards."""

    @asynccontextmanager
    async def make(
        *,
        seed: int = 1,
        faults: Faults | None = None,
        open_store: OpenStore = in_memory,
        **options: Any,
    ) -> AsyncIterator[World]:
        clock = ManualClock()
        opened = await open_store(clock)
        world = World(opened.store, clock, faults or Faults(), seed)
        vars(world).update(options)
        try:
            await world.boot()
            yield world
        finally:
            world.bomb.dead = False
            await world.phones.close()
            await world.bridge.close()
            await opened.close()

    return make


@pytest.fixture
def bomb() -> type[Bomb]:
    return Bomb


@pytest.fixture
def killed() -> type[Killed]:
    return Killed
