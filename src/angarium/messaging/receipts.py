"""Delivered and read marks on their way into the store: folded, batched, never waited for."""

import asyncio

from angarium.errors import AngariumError
from angarium.ids import ConversationId, UserId
from angarium.limits import RECEIPTS_WAITING_MAX
from angarium.messaging.figures import Figures
from angarium.storage.contract import ReceiptKind, Receipts

_FOLD_AGAIN_S = 1.0
Mark = tuple[ConversationId, UserId, ReceiptKind]


class ReceiptFold:
    """One write in flight; what comes meanwhile joins the next one.

    A mark only rises. When the store fails, marks wait; at RECEIPTS_WAITING_MAX new ones are
    dropped, and the next one of the same participant covers them.
    """

    def __init__(self, *, receipts: Receipts, figures: Figures) -> None:
        self._receipts, self._figures = receipts, figures
        self._waiting: dict[Mark, int] = {}
        self._wake = asyncio.Event()
        self._closing = False

    def raise_mark(
        self, c: ConversationId, user: UserId, kind: ReceiptKind, sequence: int
    ) -> None:
        """Remember to store it."""
        mark = (c, user, kind)
        if mark not in self._waiting and len(self._waiting) >= RECEIPTS_WAITING_MAX:
            self._figures.events_dropped += 1
            return
        self._waiting[mark] = max(sequence, self._waiting.get(mark, 0))
        self._wake.set()

    def close(self) -> None:
        """Let `run` return once nothing waits, or the store fails again."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Store what waits, until closed."""
        while not (self._closing and not self._waiting):
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch, self._waiting = self._waiting, {}
            try:
                await self._receipts.fold([(*mark, s) for mark, s in batch.items()])
                self._figures.receipts_stored += len(batch)
            except AngariumError:
                for mark, sequence in self._waiting.items():
                    batch[mark] = max(sequence, batch.get(mark, 0))
                self._waiting = batch
                if self._closing:
                    return
                await asyncio.sleep(_FOLD_AGAIN_S)
