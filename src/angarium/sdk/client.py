"""A person's client: `async with Client(url, user=..., token=..., folder=...) as client`.

    conversation = await client.converse("@gateway:angarium")
    await conversation.send("Hello")
    async for message in conversation.answers():
        print(message.text)

Keys, cursor and history lie sealed in `folder`; the next start goes on where this one stood.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from angarium.clock import Clock, SystemClock
from angarium.e2ee.body import Body, FileRef
from angarium.errors import AngariumError, Misconfigured, UnverifiedDevice
from angarium.ids import ConversationId, MessageKey, UserId, check_user_id
from angarium.sdk import attachments, linking
from angarium.sdk.contract import Delivered, Happened, Received
from angarium.sdk.history import Feed, History

TokenSource = str | Callable[[], str]

_KEY_ID = "client"
_SEALER_SCOPE = "client"


class Attachment:
    """A file of a message; its bytes are fetched when asked for."""

    def __init__(self, client: "Client", conversation: ConversationId, file: FileRef) -> None:
        self._client, self._conversation, self.file = client, conversation, file
        self.name, self.size, self.content_type = file.name, file.size, file.content_type

    async def save(self, path: Path | str) -> Path:
        """Fetch, open and check it; an earlier try that was cut off goes on. Returns where it
        is. Raises SealBroken, NotFound, Unavailable, Misconfigured."""
        api = self._client.api
        return await attachments.save(api, self._conversation, self.file, Path(path))


class Message:
    """One message as a person sees it. `problem` names why it was not opened or trusted."""

    def __init__(self, client: "Client", received: Received) -> None:
        self.received = received
        self.body, self.text, self.sender = received.body, received.body.text, received.sender
        self.sequence, self.key, self.own = received.sequence, received.key, received.own
        self.problem, self.gap = received.problem, received.gap
        self.attachments = [
            Attachment(client, received.conversation, file) for file in received.body.files
        ]


class Piece:
    """A part of an answer that is still being written."""

    def __init__(self, event: Happened) -> None:
        self.ref, self.index = event.ref, event.index
        self.body = event.body or Body()
        self.text = self.body.text


class Conversation:
    """One conversation of the client's user."""

    def __init__(self, client: "Client", conversation: ConversationId) -> None:
        self._client, self.id = client, conversation
        # Answers to what is sent before anybody iterates wait here.
        self._answers: Feed | None = None
        self._streamed: Feed | None = None

    async def send(
        self,
        text: str,
        *,
        attach: Sequence[Path | str] = (),
        agent: str = "",
        ref: str = "",
        key: MessageKey | None = None,
        wait: bool = True,
    ) -> Delivered | MessageKey:
        """Send it; with `wait`, until the relay has stored it. Without, its key at once: it is
        durable here and will be sent.

        Raises UnverifiedDevice, IdentityChanged, TooLarge, and what the relay refused it with.
        """
        self._listen()
        api = self._client.api
        files = [await attachments.upload(api, self.id, Path(path)) for path in attach]
        body = Body(text=text, agent=agent, ref=ref, files=files)
        chosen = await self._client.endpoint.submit(self.id, body, key)
        return await self._client.endpoint.sent(chosen) if wait else chosen

    async def history(self, messages_max: int = 100) -> list[Message]:
        """The newest messages kept here, oldest first."""
        kept = await self._client.kept.read(self.id)
        return [Message(self._client, received) for received in kept[-messages_max:]]

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Every message: those kept here, then as they come."""
        feed = self._client.kept.subscribe(self.id)
        try:
            newest = 0
            for received in await self._client.kept.read(self.id):
                newest = received.sequence
                yield Message(self._client, received)
            async for item in feed.items():
                if isinstance(item, Received) and item.sequence > newest:
                    yield Message(self._client, item)
        finally:
            self._client.kept.unsubscribe(feed)

    async def answers(self) -> AsyncGenerator[Message, None]:
        """Messages of others, from the first `send` of this object on."""
        self._listen()
        assert self._answers is not None  # noqa: S101
        async for item in self._answers.items():
            if isinstance(item, Received) and not item.own:
                yield Message(self._client, item)

    async def stream(self) -> AsyncGenerator[Piece | Message, None]:
        """Parts of answers as they are written, and each final message, which replaces them."""
        self._listen()
        assert self._streamed is not None  # noqa: S101
        async for item in self._streamed.items():
            if isinstance(item, Received):
                if not item.own:
                    yield Message(self._client, item)
            elif item.kind == "part":
                yield Piece(item)

    def typing(self, on: bool = True) -> None:
        self._client.endpoint.typing(self.id, on)

    def mark_read(self, sequence: int) -> None:
        self._client.endpoint.mark_read(self.id, sequence)

    async def participants(self) -> list[UserId]:
        found = await self._client.api.conversation(self.id)
        return [UserId(entry["user"]) for entry in found["participants"]]

    def _listen(self) -> None:
        if self._answers is None:
            self._answers = self._client.kept.subscribe(self.id)
            self._streamed = self._client.kept.subscribe(self.id)


def take_folder(folder: Path) -> Callable[[], Awaitable[None]]:
    """Keep other processes out of `folder` until the function returned here is called: another
    one would move the ratchets on behind this one's back. Raises Misconfigured, OSError."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Misconfigured(
            f"another program uses {folder}; close it, or be another user"
        ) from None

    async def release() -> None:
        os.close(lock)

    return release


class Client:
    """One device of one user, kept in `folder`. A folder belongs to one user and is used by one
    process at a time. `token` is a bearer token, or is asked for one whenever it is needed."""

    def __init__(
        self,
        url: str,
        *,
        user: str,
        token: TokenSource,
        folder: Path | str,
        clock: Clock | None = None,
    ) -> None:
        self.url, self.user = url.rstrip("/"), check_user_id(user)
        self._token, self._folder = token, Path(folder)
        self._clock = clock or SystemClock()
        self._closers: list[Callable[[], Any]] = []
        self._conversations: dict[ConversationId, Conversation] = {}

    async def __aenter__(self) -> "Client":
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End cleanly; what is durable stays."""
        closers, self._closers = self._closers, []
        for closer in reversed(closers):
            await closer()

    async def _open(self) -> None:
        from angarium.sdk.api import HttpApi, discover
        from angarium.sdk.records import Records
        from angarium.sdk.transport import PicowsConnector

        found = await discover(self.url)
        self.gateway = str(found.get("gateway", ""))
        vault, sealer = await self._open_folder()
        self.api = HttpApi(self.url, self._bearer)
        self._closers.append(self.api.close)
        engine = await self._engine(vault, sealer, Records)
        self.engine = engine
        self.kept = History(vault, sealer, engine.device)
        await self._start(vault, sealer, PicowsConnector(found["websocket_url"]))

    async def _open_folder(self) -> tuple[Any, Any]:
        """The store and the sealer of the folder, made at first use."""
        from angarium.kms.local import LocalKms
        from angarium.kms.sealer import open_sealer
        from angarium.storage.contract import PutRecord
        from angarium.storage.sqlite.store import open_sqlite

        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._closers.append(take_folder(self._folder))
        except OSError as error:
            raise Misconfigured(f"{self._folder} cannot be made: {error.strerror}") from None
        sqlite = await open_sqlite(self._folder, self._clock)
        self._closers.append(sqlite.close)
        vault = sqlite.store.vault
        kept = await vault.read("client", "data-key")
        kms = LocalKms(self._folder / "keys.json")
        wrapped = kept[0].blob if kept else None
        sealer, wrapped_now = await open_sealer(kms, _KEY_ID, _SEALER_SCOPE, wrapped)
        if wrapped is None:
            await vault.write([PutRecord("client", "data-key", wrapped_now, expect_rev=0)])
        return vault, sealer

    async def _engine(self, vault: Any, sealer: Any, records: Any) -> Any:
        from angarium.e2ee.olm import OlmEngine
        from angarium.sdk.stored import own_device

        owner = await vault.read("client", "user")
        if owner and owner[0].blob.decode() != self.user:
            raise Misconfigured(f"{self._folder} holds the keys of {owner[0].blob.decode()}")
        device = await own_device(vault, self.user)
        saved = await records(vault, sealer, f"device/{device}").engine_records()
        if "account" in saved:
            return OlmEngine.load(self.user, device, saved, clock=self._clock)
        lists = await self.api.query_keys([self.user])
        if self.user in lists.get("master_keys", {}):
            # The user has an identity: this device waits until an earlier one signs it.
            return OlmEngine.create_device(
                self.user, device, kind="sdk", identity=None, clock=self._clock
            )
        return OlmEngine.create(self.user, device, kind="sdk", clock=self._clock)

    async def _start(self, vault: Any, sealer: Any, connector: Any) -> None:
        from angarium.sdk.endpoint import DeviceEndpoint

        self.endpoint = DeviceEndpoint(
            user=self.user,
            device=self.engine.device,
            engine=self.engine,
            vault=vault,
            sealer=sealer,
            api=self.api,
            connector=connector,
            token=self._bearer,
            clock=self._clock,
            sink=self.kept,
            kind="sdk",
        )
        self._closers.append(self.endpoint.close)
        try:
            await self.endpoint.open()
        except UnverifiedDevice:
            raise UnverifiedDevice(
                f"this device is not linked yet; on a linked one write /link "
                f"{self.engine.device} and compare {self.fingerprint}"
            ) from None
        assert self.endpoint.ended is not None  # noqa: S101
        self.endpoint.ended.add_done_callback(lambda _: self.kept.end())

    async def _bearer(self, fresh: bool) -> str:
        return self._token if isinstance(self._token, str) else self._token()

    # --- what a person does -----------------------------------------------------------------

    def now_ms(self) -> int:
        """The client's clock, for keys made outside."""
        return self._clock.now_ms()

    @property
    def error(self) -> AngariumError | None:
        """What ended the client by itself, if anything did."""
        return self.endpoint.error

    async def converse(self, *users: str) -> Conversation:
        """The conversation among this user and `users`; made when there is none."""
        found = await self.endpoint.converse([check_user_id(user) for user in users])
        return self.conversation(found)

    def conversation(self, conversation: ConversationId) -> Conversation:
        return self._conversations.setdefault(conversation, Conversation(self, conversation))

    async def conversations(self) -> list[Conversation]:
        listed = await self.api.conversations()
        return [self.conversation(ConversationId(entry["id"])) for entry in listed]

    async def events(self) -> AsyncGenerator[Happened, None]:
        """Typing, presence, receipts and parts, of all conversations, as they come."""
        feed = self.kept.subscribe()
        try:
            async for item in feed.items():
                if isinstance(item, Happened):
                    yield item
        finally:
            self.kept.unsubscribe(feed)

    async def safety_number(self, user: str) -> str:
        """Sixty digits that are equal at both ends. Raises UnverifiedDevice."""
        known = check_user_id(user)
        await self.endpoint.refresh_keys([known])
        return await asyncio.to_thread(self.engine.safety_number, known)

    @property
    def fingerprint(self) -> str:
        """Of this device, to be compared with what an earlier device shows before linking."""
        return linking.fingerprint(self.engine.device_keys())

    async def unlinked_devices(self) -> Sequence[linking.UnlinkedDevice]:
        """Devices that say they are this user's and wait to be linked."""
        return await linking.unlinked_devices(self.api, self.user)

    async def link(self, device: str, fingerprint: str) -> None:
        """Sign another device of this user, whose fingerprint a person compared on its screen.

        Raises NotFound, UnverifiedDevice.
        """
        await linking.link(self.api, self.engine, self.user, device, fingerprint)

    async def accept_identity(self, user: str) -> None:
        """The safety numbers were compared and are equal: trust the keys seen last."""
        self.engine.accept_identity(check_user_id(user))
        await self.endpoint.persist()
