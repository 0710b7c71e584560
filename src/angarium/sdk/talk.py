"""One conversation of a device in memory: counter, cursor, chain, outbox."""

import asyncio
import secrets
from dataclasses import dataclass, field

from angarium.e2ee.envelope import Chain
from angarium.ids import ConversationId, DeviceId, MessageKey, RandomBytes, UserId
from angarium.limits import RECENT_KEYS_MAX
from angarium.sdk.contract import Delivered
from angarium.sdk.records import OutRecord, TalkRecord


@dataclass(slots=True, eq=False)
class Out:
    """A submitted message on its way. `durable`: written here; `stored`: written there."""

    record: OutRecord
    durable: "asyncio.Future[None]"
    stored: "asyncio.Future[Delivered]"


@dataclass(slots=True, eq=False)
class Talk:
    """`lock` is held from the first look at a conversation until its next message is made."""

    id: ConversationId
    chain: Chain
    epoch: int = 0
    cursor: int = 0
    cs: int = 0
    recent: dict[str, int] = field(default_factory=dict)
    members: tuple[UserId, ...] = ()
    outs: dict[str, Out] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def new(
        cls,
        conversation: ConversationId,
        device: DeviceId,
        random: RandomBytes = secrets.token_bytes,
    ) -> "Talk":
        return cls(conversation, Chain(conversation, device, random))

    @classmethod
    def load(cls, record: TalkRecord, random: RandomBytes = secrets.token_bytes) -> "Talk":
        """Raises SealBroken."""
        return cls(
            ConversationId(record.c),
            Chain.load(record.chain, random),
            record.epoch,
            record.cursor,
            record.cs,
            dict(record.recent),
            tuple(map(UserId, record.members)),
        )

    def dump(self) -> TalkRecord:
        return TalkRecord(
            self.id,
            self.epoch,
            self.cursor,
            self.cs,
            self.recent,
            self.chain.dump(),
            list(self.members),
        )

    def remember(self, key: MessageKey, sequence: int) -> None:
        """Note a submitted key, and later its sequence. The oldest stored one is forgotten."""
        if sequence or key not in self.recent:
            self.recent[key] = sequence
        while len(self.recent) > RECENT_KEYS_MAX:
            oldest = next((k for k in self.recent if k not in self.outs), None)
            if oldest is None:
                return
            del self.recent[oldest]
