"""What is remembered of a person across conversations, sealed in the vault.

Per agent a memory of its own, and exchanges that can be recalled, under the person's own key;
and an account that outlives `/forget`, because it holds no content: whether the person was told
that agents are software.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from angarium.agents.own_keys import OwnKey, read_owned
from angarium.errors import SealBroken, TooLarge
from angarium.ids import ConversationId, UserId
from angarium.kms.contract import Sealer
from angarium.limits import PERSON_MEMORY_BYTES_MAX, RECALL_EXCHANGES_MAX
from angarium.storage.contract import DropRecord, PutRecord, Record, Vault, Write
from angarium.telemetry.log import get_logger

log = get_logger("angarium.agents")
_DROPS_AT_ONCE = 200


class Account(msgspec.Struct, omit_defaults=True):
    """What is kept of a person without any content."""

    disclosed: bool = False  # Was told that an AI agent answers.


class Exchange(msgspec.Struct, omit_defaults=True):
    """One exchange that can be recalled. `vector`: 16-bit floats by the embedder `embedder`."""

    text: str
    when_ms: int
    conversation: str = ""
    vector: bytes = b""
    embedder: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder(dict[str, Any]).decode
_decode_counts = msgspec.msgpack.Decoder(dict[str, int]).decode
_decode_account = msgspec.msgpack.Decoder(Account).decode
_decode_exchange = msgspec.msgpack.Decoder(Exchange).decode


@dataclass(eq=False)
class PersonNotes:
    """One person's; the same object for all turns of the person that run now.

    `forgotten` counts how often the person was forgotten since it was loaded: what an agent
    computed before that is not kept.
    """

    user: UserId
    key: OwnKey
    account: Account = field(default_factory=Account)
    memories: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)  # By agent: exchanges ever kept.
    forgotten: int = 0

    def memory(self, agent: str) -> dict[str, Any]:
        """A copy; what an attempt changes counts only once its reply is written."""
        return _decode_any(_encode(self.memories.get(agent, {})))


class People:
    """Reads the notes of persons and makes the writes that change them."""

    def __init__(self, vault: Vault, sealer: Sealer, scope: str) -> None:
        self._vault, self._sealer = vault, sealer
        self._scope = f"{scope}/people"
        self._recall, self._places = f"{scope}/recall", f"{scope}/places"
        self._live: WeakValueDictionary[UserId, PersonNotes] = WeakValueDictionary()
        self._loading: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    async def load(self, user: UserId) -> PersonNotes:
        """Raises SealBroken for an account of another key or place."""
        lock = self._loading.setdefault(user, asyncio.Lock())
        async with lock:  # Two turns that begin together get the same notes.
            found = self._live.get(user)
            if found is None:
                found = await self._read(user)
                self._live[user] = found
            return found

    async def _read(self, user: UserId) -> PersonNotes:
        key, records = await read_owned(self._vault, self._sealer, self._scope, user)
        person = PersonNotes(user, key)
        for record in records:
            kind, _, agent = record.key.removeprefix(f"{user}/").partition("/")
            if kind == "account":
                plain = self._sealer.unseal(record.blob, f"{self._scope}/{record.key}")
                person.account = _decode_account(plain)
                continue
            opened = self._open(key, self._scope, record)
            if opened is not None and kind == "memory":
                person.memories[agent] = _decode_any(opened)
            elif opened is not None and kind == "kept":
                person.kept = _decode_counts(opened)
        return person

    def _open(self, key: OwnKey, scope: str, record: Record) -> bytes | None:
        """None for what was sealed under a key that is gone: a write that was under way while
        the person was forgotten may land after it."""
        try:
            return key.open(scope, record)
        except SealBroken:
            log.warning("record.unreadable", scope=scope)
            return None

    # --- writing ------------------------------------------------------------------------------

    def put_account(self, person: PersonNotes, account: Account) -> PutRecord:
        key = f"{person.user}/account"
        sealed = self._sealer.seal(_encode(account), f"{self._scope}/{key}")
        return PutRecord(self._scope, key, sealed)

    def change_memory(
        self, person: PersonNotes, agent: str, before: dict[str, Any], after: dict[str, Any]
    ) -> list[Write]:
        """What an agent has changed, put over what other turns of the person changed meanwhile.

        Raises TooLarge, and TypeError for values that are not plain; nothing is changed then.
        """
        if before == after:
            return []
        merged = dict(person.memories.get(agent, {}))
        for name in before.keys() | after.keys():
            if name not in after:
                merged.pop(name, None)
            elif name not in before or before[name] != after[name]:
                merged[name] = after[name]
        packed = _encode(merged)
        if len(packed) > PERSON_MEMORY_BYTES_MAX:
            raise TooLarge(
                f"turn.person_memory of {agent!r} is over {PERSON_MEMORY_BYTES_MAX} bytes"
            )
        person.memories[agent] = _decode_any(packed)
        return [*person.key.put(f"{person.user}/memory/{agent}", packed)]

    def keep_exchange(self, person: PersonNotes, agent: str, exchange: Exchange) -> list[Write]:
        """Keep it for recall, in the place of the one kept RECALL_EXCHANGES_MAX before it."""
        count = person.kept.get(agent, 0)
        person.kept[agent] = count + 1
        return [
            *person.key.put(f"{person.user}/kept", _encode(person.kept)),
            *self.put_exchange(person, agent, count % RECALL_EXCHANGES_MAX, exchange),
        ]

    def put_exchange(
        self, person: PersonNotes, agent: str, slot: int, exchange: Exchange
    ) -> list[PutRecord]:
        key = f"{person.user}/{agent}/{slot:04d}"
        return person.key.put(key, _encode(exchange), self._recall)

    def drop_exchange(self, person: PersonNotes, agent: str, slot: int) -> DropRecord:
        return DropRecord(self._recall, f"{person.user}/{agent}/{slot:04d}")

    def put_place(self, user: str, conversation: ConversationId) -> PutRecord:
        """That the person has written in this conversation."""
        return PutRecord(self._places, f"{user}/{conversation}", b"")

    # --- reading more -------------------------------------------------------------------------

    async def exchanges(self, person: PersonNotes, agent: str) -> dict[int, Exchange]:
        """By slot, what can be recalled."""
        prefix = f"{person.user}/{agent}/"
        found = {}
        for record in await self._vault.read(self._recall, prefix):
            opened = self._open(person.key, self._recall, record)
            if opened is not None:
                found[int(record.key.removeprefix(prefix))] = _decode_exchange(opened)
        return found

    async def places(self, user: UserId) -> list[ConversationId]:
        """The conversations in which the person has written since last forgotten."""
        found = await self._vault.read(self._places, f"{user}/")
        return [ConversationId(record.key.removeprefix(f"{user}/")) for record in found]

    # --- forgetting ---------------------------------------------------------------------------

    async def forget(self, person: PersonNotes) -> Sequence[Sequence[Write]]:
        """Writes, to be made one after the other, after which nothing is left but the account:
        the key first. `person` is empty at once, and turns under way keep nothing."""
        user = person.user
        drops: list[Write] = [person.key.drop()]
        person.key.renew()
        person.memories.clear()
        person.kept.clear()
        person.forgotten += 1
        account = f"{user}/account"
        for scope in (self._scope, self._recall, self._places):
            found: Sequence[Record] = await self._vault.read(scope, f"{user}/")
            drops += [
                DropRecord(scope, record.key) for record in found if record.key != account
            ]
        return [
            drops[start : start + _DROPS_AT_ONCE]
            for start in range(0, len(drops), _DROPS_AT_ONCE)
        ]
