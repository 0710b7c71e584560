"""Row 15. Stateful: whatever is sent, retried, dropped, resumed, purged, the log equals a dict.

Two store objects over one database stand for two nodes with caches of their own; devices read
from their cursors as a resumed connection does.
"""

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from angarium.clock import ManualClock
from angarium.errors import KeyReused, OutOfOrder
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.model.conversation import Participant
from angarium.model.message import Accepted, NewMessage, NotAccepted
from angarium.storage.sqlite.store import SqliteStore, open_sqlite
from angarium.testing.simulation.loop import VirtualLoop

T = TypeVar("T")

DEVICES = tuple(DeviceId(f"DEVICE{n}") for n in range(3))
USERS = tuple(UserId(f"@user{n}:angarium") for n in range(3))
TALKS = tuple(ConversationId(str(uuid.UUID(int=n))) for n in (1, 2))
device = st.sampled_from(range(3))
talk = st.sampled_from(TALKS)
node = st.sampled_from(range(2))


@dataclass(frozen=True)
class Kept:
    """One message of the model. `text` is None once purged."""

    device: DeviceId
    key: MessageKey
    cs: int
    text: bytes | None


class LogEqualsModel(RuleBasedStateMachine):
    """Rules act on the store and on `model`; invariants compare them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.model: dict[ConversationId, list[Kept]] = {talk: [] for talk in TALKS}
        self.cursors: dict[tuple[DeviceId, ConversationId], int] = {}
        self.seen: dict[tuple[DeviceId, ConversationId], list[MessageKey]] = {}
        self.numbers = 0
        self.nodes: list[SqliteStore] = []

    def teardown(self) -> None:
        for store in self.nodes:
            self.do(store.close())
        asyncio.set_event_loop(None)
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def open(self) -> None:
        first = self.do(open_sqlite(None, ManualClock(), inline=True))
        self.nodes = [first, self.do(first.second())]
        everybody = [Participant(user, "person") for user in USERS]
        for one in TALKS:
            self.do(first.store.conversations.create(one, everybody, 1))

    def message(self, who: int, where: ConversationId, kept: Kept, text: bytes) -> NewMessage:
        to = {other: text for other in DEVICES if other != kept.device}
        return NewMessage(where, USERS[who], kept.device, kept.key, kept.cs, "msg", to, 1)

    def append(self, at: int, message: NewMessage) -> Accepted | NotAccepted:
        (result,) = self.do(self.nodes[at].store.log.append([message]))
        return result

    def count(self, who: int, where: ConversationId) -> int:
        return sum(kept.device == DEVICES[who] for kept in self.model[where])

    @rule(who=device, where=talk, at=node)
    def send(self, who: int, where: ConversationId, at: int) -> None:
        self.numbers += 1
        key = MessageKey(str(uuid.UUID(int=1000 + self.numbers)))
        text = f"text {self.numbers}".encode()
        kept = Kept(DEVICES[who], key, self.count(who, where) + 1, text)

        result = self.append(at, self.message(who, where, kept, text))

        self.model[where].append(kept)
        assert isinstance(result, Accepted)
        assert (result.sequence, result.duplicate) == (len(self.model[where]), False)

    @rule(where=talk, at=node, pick=st.integers(0, 1000))
    def retry(self, where: ConversationId, at: int, pick: int) -> None:
        if not self.model[where]:
            return
        sequence = pick % len(self.model[where]) + 1
        kept = self.model[where][sequence - 1]
        if kept.text is None:
            return

        message = self.message(DEVICES.index(kept.device), where, kept, kept.text)
        result = self.append(at, message)

        assert isinstance(result, Accepted)
        assert (result.sequence, result.duplicate) == (sequence, True)

    @rule(where=talk, at=node, pick=st.integers(0, 1000))
    def reuse_a_key(self, where: ConversationId, at: int, pick: int) -> None:
        if not self.model[where]:
            return
        kept = self.model[where][pick % len(self.model[where])]

        message = self.message(DEVICES.index(kept.device), where, kept, b"something else")
        result = self.append(at, message)

        assert isinstance(result, NotAccepted)
        assert isinstance(result.error, KeyReused)

    @rule(who=device, where=talk, at=node, ahead=st.integers(1, 3))
    def overtake(self, who: int, where: ConversationId, at: int, ahead: int) -> None:
        self.numbers += 1
        key = MessageKey(str(uuid.UUID(int=1000 + self.numbers)))
        expected = self.count(who, where) + 1
        kept = Kept(DEVICES[who], key, expected + ahead, b"too early")

        result = self.append(at, self.message(who, where, kept, b"too early"))

        assert isinstance(result, NotAccepted)
        assert isinstance(result.error, OutOfOrder)
        assert result.error.expect_cs == expected

    @rule(who=device, where=talk, at=node, most=st.integers(1, 5), acked=st.booleans())
    def receive(self, who: int, where: ConversationId, at: int, most: int, acked: bool) -> None:
        """Read on from the cursor; without `acked` the device died before it was durable."""
        place = (DEVICES[who], where)
        cursor = self.cursors.get(place, 0)

        found = self.do(
            self.nodes[at].store.log.read(where, DEVICES[who], cursor + 1, cursor + most, most)
        )

        wanted = self.model[where][cursor : cursor + most]
        assert [message.sequence for message in found] == [
            cursor + 1 + n for n in range(len(wanted))
        ]
        for message, kept in zip(found, wanted, strict=True):
            sealed = None if kept.device == DEVICES[who] else kept.text
            assert (message.key, message.cs) == (kept.key, kept.cs)
            assert message.to.get(DEVICES[who]) == sealed
            assert (message.kind == "void") == (kept.text is None)
        if acked:
            self.cursors[place] = cursor + len(found)
            self.seen.setdefault(place, []).extend(message.key for message in found)

    @rule(where=talk, at=node, share=st.integers(0, 100))
    def purge(self, where: ConversationId, at: int, share: int) -> None:
        up_to = len(self.model[where]) * share // 100
        alive = sum(kept.text is not None for kept in self.model[where][:up_to])

        voided = self.do(self.nodes[at].store.log.purge(where, up_to))

        assert voided == alive
        self.model[where][:up_to] = [
            Kept(kept.device, kept.key, kept.cs, None) for kept in self.model[where][:up_to]
        ]

    @invariant()
    def heads_are_equal_on_every_node(self) -> None:
        for store in self.nodes:
            heads = self.do(store.store.log.heads(TALKS))
            assert {one: heads[one].sequence for one in TALKS} == {
                one: len(kept) for one, kept in self.model.items()
            }

    @invariant()
    def each_device_saw_a_prefix_once(self) -> None:
        for (_, where), keys in self.seen.items():
            assert keys == [kept.key for kept in self.model[where][: len(keys)]]


LogEqualsModel.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLogEqualsModel = LogEqualsModel.TestCase
