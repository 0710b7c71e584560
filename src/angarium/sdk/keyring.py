"""Keys of a device and of those it writes to: published, fetched, claimed, topped up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from angarium.e2ee.engine import CryptoEngine
from angarium.errors import Unavailable, UnverifiedDevice
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.limits import ONE_TIME_KEYS_AGENT, ONE_TIME_KEYS_PERSON
from angarium.model.device import DeviceKind
from angarium.sdk.api import Api

Persist = Callable[[], Awaitable[None]]


class Keyring:
    """`persist` makes the engine's changes durable before anything that needs them leaves."""

    def __init__(
        self, engine: CryptoEngine, api: Api, kind: DeviceKind, persist: Persist
    ) -> None:
        self._engine, self._api, self._kind, self._persist = engine, api, kind, persist
        self._target = (
            ONE_TIME_KEYS_AGENT if kind in ("gateway", "bridge") else ONE_TIME_KEYS_PERSON
        )
        self._known: set[UserId] = set()
        self._members: dict[ConversationId, tuple[UserId, ...]] = {}
        self._used = 0
        self._topping_up = asyncio.Lock()

    # --- who takes part -----------------------------------------------------------------------

    async def members(
        self, conversation: ConversationId, *, fresh: bool = False
    ) -> tuple[UserId, ...]:
        """The users of a conversation, this one included. Raises what the API raises."""
        if fresh or conversation not in self._members:
            self.remember(await self._api.conversation(conversation))
        return self._members[conversation]

    def known_members(self, conversation: ConversationId) -> tuple[UserId, ...] | None:
        return self._members.get(conversation)

    def remember(self, conversation: dict[str, Any]) -> None:
        """Take in what the API says of a conversation."""
        users = tuple(UserId(entry["user"]) for entry in conversation["participants"])
        self._members[ConversationId(conversation["id"])] = users

    # --- others' keys -------------------------------------------------------------------------

    def knows(self, users: Sequence[UserId]) -> bool:
        return self._known.issuperset(users)

    async def refresh(self, users: Sequence[UserId]) -> None:
        """Fetch device lists. Raises IdentityChanged and what the API raises."""
        lists = await self._api.query_keys(users)
        self._known.update(users)
        self._engine.learn(lists)

    async def prepare(self, users: Sequence[UserId]) -> None:
        """Everything fetched that sealing for these users needs.

        Raises UnverifiedDevice when one of them has no trusted device, IdentityChanged,
        Undecryptable when a device offers no key to start a session with.
        """
        unknown = [user for user in users if user not in self._known]
        if unknown:
            try:
                await self.refresh(unknown)
            except Unavailable:
                # What was learned earlier must do: the relay refuses a list that is outdated.
                if self._without_device(users):
                    raise
        if self._without_device(users):
            await self.refresh(users)
        without = self._without_device(users)
        if without:
            raise UnverifiedDevice(f"no trusted device of {', '.join(without)}")
        await self._claim(users)

    async def _claim(self, users: Sequence[UserId]) -> None:
        devices = self._engine.devices(users)
        missing = self._engine.without_session(devices)
        if not missing:
            return
        wanted: dict[UserId, list[DeviceId]] = {}
        for device in missing:
            wanted.setdefault(device.user, []).append(device.id)
        self._engine.start_sessions(await self._api.claim_keys(wanted))
        await self._persist()

    def _without_device(self, users: Sequence[UserId]) -> list[UserId]:
        having = {device.user for device in self._engine.devices(users)}
        return [user for user in users if user not in having and user != self._engine.user]

    # --- own keys -----------------------------------------------------------------------------

    async def publish(self) -> None:
        """Upload identity, device and first prekeys.

        Raises IdentityChanged when the user has another identity already: this device must be
        linked by an earlier one then. Raises UnverifiedDevice when the server does not list
        this device as signed.
        """
        await self._persist()
        lists = await self._api.query_keys([self._engine.user])
        self._engine.learn(lists)
        identity = self._engine.identity_keys()
        if identity is not None and self._engine.user not in lists.get("master_keys", {}):
            await self._api.upload_identity(identity)
        answer = await self._upload(self._target)
        if not answer.get("signed", True):
            raise UnverifiedDevice("an earlier device must sign this one first")
        await self.refresh([self._engine.user])

    def count_used(self) -> bool:
        """A session was started with one of this device's keys; true when it is time to top
        up."""
        self._used += 1
        return self._used * 2 >= self._target

    async def top_up(self) -> None:
        """Replace used one-time keys when less than half are left; renew the fallback key when
        it is a week old."""
        async with self._topping_up:
            count = await self._api.count_keys(self._engine.device)
            self._used = self._target - count
            await self._upload(self._target - count if count * 2 < self._target else 0)

    async def _upload(self, one_time: int) -> dict[str, Any]:
        prekeys = self._engine.make_prekeys(one_time, fallback=True)
        await self._persist()
        upload = {"device_keys": self._engine.device_keys(), "kind": self._kind, **prekeys}
        answer = await self._api.upload_keys(upload)
        self._used = 0 if one_time else self._used
        return answer
