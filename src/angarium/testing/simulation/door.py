"""The HTTP API of simulated nodes as a device asks it: late, lost on the way, or lost after."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from angarium.errors import NotFound, Unavailable
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.keys.directory import KEY_ALGORITHM, Keys
from angarium.model.conversation import Conversation
from angarium.storage.contract import Store
from angarium.testing.simulation.loop import Process, VirtualLoop

T = TypeVar("T")


@dataclass(slots=True)
class DoorWeather:
    """Chances per request; the delay in seconds, each way."""

    lost: float = 0.0  # The request never arrives.
    answer_lost: float = 0.0  # It was carried out, the answer never arrives.
    delay_s: float = 0.03

    def clear(self) -> None:
        self.lost = self.answer_lost = 0.0


@dataclass(slots=True, eq=False)
class Counter:
    """What one living node answers with."""

    process: Process
    store: Store
    keys: Keys


class SimulatedApi:
    """Implements `Api` for one device, over whichever node lives.

    `checked` says whether prekeys carry signatures: those of the quick engine do not.
    """

    def __init__(
        self,
        *,
        user: UserId,
        loop: VirtualLoop,
        counters: Callable[[], Sequence[Counter]],
        weather: DoorWeather,
        chance: random.Random,
        checked: bool,
        taken: Callable[[str, str], None],
    ) -> None:
        self._user, self._loop, self._counters = user, loop, counters
        self._weather, self._chance = weather, chance
        self._checked, self._taken = checked, taken

    async def upload_keys(self, upload: Mapping[str, Any]) -> dict[str, Any]:
        prekeys = {name: upload.get(name) or {} for name in ("one_time_keys", "fallback_keys")}

        async def work(counter: Counter) -> dict[str, Any]:
            sent = prekeys if self._checked else {}
            device_keys = upload.get("device_keys")
            device = str(upload.get("device") or (device_keys or {}).get("device_id", ""))
            stored = await counter.keys.upload(
                self._user,
                device_keys=device_keys,
                kind=upload.get("kind"),
                device=device,
                **sent,
            )
            count = stored.one_time_keys
            if not self._checked:
                count = await _put_unchecked(counter.store, stored.device, prekeys)
            return {
                "one_time_key_counts": {KEY_ALGORITHM: count},
                "signed": stored.signed,
            }

        return await self._ask(work)

    async def upload_identity(self, identity: Mapping[str, Any]) -> None:
        async def work(counter: Counter) -> None:
            await counter.keys.upload_identity(
                self._user, identity["master_key"], identity["self_signing_key"]
            )

        await self._ask(work)

    async def upload_signatures(self, signed: Mapping[str, Any]) -> None:
        await self._ask(lambda counter: counter.keys.upload_signatures(self._user, signed))

    async def query_keys(self, users: Sequence[UserId]) -> dict[str, Any]:
        return await self._ask(lambda counter: counter.keys.query(self._user, users))

    async def claim_keys(self, wanted: Mapping[UserId, Sequence[DeviceId]]) -> dict[str, Any]:
        named = {
            str(user): {str(device): KEY_ALGORITHM for device in devices}
            for user, devices in wanted.items()
        }

        async def work(counter: Counter) -> dict[str, Any]:
            claimed = await counter.keys.claim(self._user, named)
            for by_device in claimed.values():
                for device, keys in by_device.items():
                    for key_id, key in keys.items():
                        if not key.get("fallback"):
                            self._taken(device, key_id)
            return dict(claimed)

        return await self._ask(work)

    async def count_keys(self, device: DeviceId) -> int:
        return await self._ask(lambda counter: counter.keys.count(self._user, device))

    async def create_conversation(
        self, users: Sequence[UserId], conversation: ConversationId | None, key: str
    ) -> dict[str, Any]:
        async def work(counter: Counter) -> dict[str, Any]:
            found = await counter.store.conversations.find_between([*users, self._user])
            if found is None:
                raise NotFound("the plan makes every conversation")
            return _plain(found)

        return await self._ask(work)

    async def conversation(self, conversation: ConversationId) -> dict[str, Any]:
        async def work(counter: Counter) -> dict[str, Any]:
            found = await counter.store.conversations.find(conversation)
            if found is None or not found.has(self._user):
                raise NotFound("no such conversation")
            return _plain(found)

        return await self._ask(work)

    async def conversations(self) -> list[dict[str, Any]]:
        async def work(counter: Counter) -> list[dict[str, Any]]:
            return [_plain(c) for c in await counter.store.conversations.list_of(self._user)]

        return await self._ask(work)

    async def receipts(self, conversation: ConversationId) -> dict[str, Any]:
        raise NotFound("receipts are not part of the simulation")

    async def open_blob(self, blob: Mapping[str, Any]) -> dict[str, Any]:
        raise NotFound("attachments are not part of the simulation")

    async def put_chunk(self, blob: str, index: int, chunk: bytes) -> None:
        raise NotFound("attachments are not part of the simulation")

    async def find_blob(self, blob: str) -> dict[str, Any]:
        raise NotFound("attachments are not part of the simulation")

    async def read_chunk(self, blob: str, index: int) -> bytes:
        raise NotFound("attachments are not part of the simulation")

    async def close(self) -> None:
        """Nothing is held open."""

    async def _ask(self, do: Callable[[Counter], Awaitable[T]]) -> T:
        weather, chance = self._weather, self._chance
        await asyncio.sleep(chance.uniform(0.3, 1.7) * weather.delay_s)
        counters = self._counters()
        if not counters or chance.random() < weather.lost:
            raise Unavailable("the server does not answer")
        counter = chance.choice(counters)

        async def carry_out() -> T:
            return await do(counter)

        answer = self._loop.start(counter.process, carry_out(), "api request")
        answer.add_done_callback(_look_at)
        await asyncio.wait([answer])
        await asyncio.sleep(chance.uniform(0.3, 1.7) * weather.delay_s)
        if answer.cancelled() or chance.random() < weather.answer_lost:
            raise Unavailable("the server does not answer")
        return answer.result()


def _look_at(answer: "asyncio.Task[Any]") -> None:
    # The asking device may be dead, and an error nobody looked at is held against the run.
    if not answer.cancelled():
        answer.exception()


async def _put_unchecked(
    store: Store, device: DeviceId, prekeys: Mapping[str, Mapping[str, Any]]
) -> int:
    for key_id, key in prekeys["fallback_keys"].items():
        await store.directory.put_fallback_key(device, key_id, key)
    return await store.directory.put_one_time_keys(device, prekeys["one_time_keys"])


def _plain(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "epoch": conversation.epoch,
        "created_ms": conversation.created_ms,
        "participants": [
            {"user": participant.user, "role": participant.role}
            for participant in conversation.participants
        ],
    }
