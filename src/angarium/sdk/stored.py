"""A device whose keys lie in a vault: found there, or made and put there, when it is opened."""

import asyncio
from collections.abc import Sequence

from angarium.clock import Clock
from angarium.e2ee.body import Body
from angarium.e2ee.olm import OlmEngine
from angarium.errors import AngariumError, Conflict, Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId, new_device_id
from angarium.kms.contract import Kms, Sealer
from angarium.kms.sealer import DataKeySealer, open_sealer
from angarium.model.device import DeviceKind
from angarium.sdk.api import Api, Token
from angarium.sdk.contract import Delivered, Sink
from angarium.sdk.endpoint import DeviceEndpoint
from angarium.sdk.records import Records
from angarium.sdk.transport import Connector
from angarium.storage.contract import Fence, PutRecord, Vault, Write

_SCOPE = "devices"
_DATA_KEYS = "data-keys"


async def own_device(vault: Vault, user: UserId, fence: Fence | None = None) -> DeviceId:
    """The one device that this vault keeps for `user`; its id is made at first use."""
    for _ in range(2):
        for record in await vault.read(_SCOPE, user):
            if record.key == user:
                return DeviceId(record.blob.decode())
        made = new_device_id()
        try:
            await vault.write([PutRecord(_SCOPE, user, made.encode(), expect_rev=0)], fence)
        except Conflict:
            continue  # Another process was first; its id counts.
        return made
    raise Unavailable("the device's record keeps changing")


async def kept_sealer(vault: Vault, kms: Kms, scope: str) -> DataKeySealer:
    """The sealer of a service, whose wrapped data key this vault keeps; made at first use."""
    for _ in range(2):
        found = [each for each in await vault.read(_DATA_KEYS, scope) if each.key == scope]
        wrapped = found[0].blob if found else None
        sealer, wrapped_now = await open_sealer(kms, "angarium", scope, wrapped)
        if wrapped_now == wrapped:
            return sealer
        try:
            await vault.write([PutRecord(_DATA_KEYS, scope, wrapped_now, expect_rev=0)])
        except Conflict:
            continue  # Another process was first; its key counts.
        return sealer
    raise Unavailable("the data key keeps changing")


class StoredEndpoint:
    """Implements `Endpoint` for the one device a vault keeps for a user.

    Before `open` only `user` is known. Used where many devices come and go: contacts, gateways.
    """

    def __init__(
        self,
        *,
        user: UserId,
        kind: DeviceKind,
        vault: Vault,
        sealer: Sealer,
        api: Api,
        connector: Connector,
        token: Token,
        clock: Clock,
        sink: Sink,
        fence: Fence | None = None,
    ) -> None:
        self.user, self.device = user, DeviceId("")
        self._kind, self._vault, self._sealer, self._api = kind, vault, sealer, api
        self._connector, self._token, self._clock = connector, token, clock
        self._sink, self._fence = sink, fence
        self._endpoint: DeviceEndpoint | None = None

    async def open(self) -> None:
        self.device = await own_device(self._vault, self.user, self._fence)
        scope = f"device/{self.device}"
        records = await Records(self._vault, self._sealer, scope).engine_records()
        if "account" in records:
            engine = OlmEngine.load(self.user, self.device, records, clock=self._clock)
        else:
            engine = OlmEngine.create(
                self.user, self.device, kind=self._kind, clock=self._clock
            )
        self._endpoint = DeviceEndpoint(
            user=self.user,
            device=self.device,
            engine=engine,
            vault=self._vault,
            sealer=self._sealer,
            api=self._api,
            connector=self._connector,
            token=self._token,
            clock=self._clock,
            sink=self._sink,
            kind=self._kind,
            scope=scope,
            fence=self._fence,
        )
        await self._endpoint.open()

    async def close(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.close()
        await self._api.close()

    @property
    def live(self) -> bool:
        """Whether the device is connected and caught up, so far as it knows."""
        return self._endpoint is not None and self._endpoint.live

    @property
    def error(self) -> AngariumError | None:
        return self._endpoint.error if self._endpoint else None

    async def wait_ended(self) -> None:
        if self._endpoint is not None:
            await self._endpoint.wait_ended()

    @property
    def ended(self) -> "asyncio.Future[AngariumError | None] | None":
        return self._endpoint.ended if self._endpoint else None

    async def converse(self, users: Sequence[UserId]) -> ConversationId:
        return await self._open_one().converse(users)

    async def submit(
        self,
        conversation: ConversationId,
        body: Body,
        key: MessageKey | None = None,
        also: Sequence[Write] = (),
    ) -> MessageKey:
        return await self._open_one().submit(conversation, body, key, also)

    async def sent(self, key: MessageKey) -> Delivered:
        return await self._open_one().sent(key)

    def part(
        self, conversation: ConversationId, ref: str, index: int, body: Body, stream: bytes
    ) -> None:
        if self._endpoint is not None:
            self._endpoint.part(conversation, ref, index, body, stream)

    def typing(self, conversation: ConversationId, on: bool) -> None:
        if self._endpoint is not None:
            self._endpoint.typing(conversation, on)

    def mark_read(self, conversation: ConversationId, sequence: int) -> None:
        if self._endpoint is not None:
            self._endpoint.mark_read(conversation, sequence)

    def _open_one(self) -> DeviceEndpoint:
        if self._endpoint is None:
            raise Unavailable("this device is not open")
        return self._endpoint
