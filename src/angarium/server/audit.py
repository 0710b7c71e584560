"""Who did what: every command and grant becomes one line that is never changed."""

import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from angarium.clock import Clock
from angarium.errors import AngariumError
from angarium.storage.contract import Audit, AuditEntry

GHOST_HASH_CHARS = 20
_GHOST = re.compile(r"@wa_[^\s:]*(:[^\s]+)?")


class AuditTrail:
    """Appends entries. Ghosts of phones appear as keyed hashes, content never."""

    def __init__(self, *, audit: Audit, clock: Clock, secret: bytes) -> None:
        self._audit, self._clock = audit, clock
        self._key = hashlib.sha256(b"angarium audit\x00" + secret).digest()

    async def record(
        self, principal: str, action: str, target: str, outcome: str, **detail: Any
    ) -> None:
        """Append one entry. Raises what the store raises: no command without its line."""
        await self._audit.append(
            AuditEntry(
                at_ms=self._clock.now_ms(),
                principal=self.pseudonym(principal),
                action=action,
                target=self.pseudonym(target),
                outcome=outcome,
                detail=detail,
            )
        )

    @asynccontextmanager
    async def command(self, principal: str, action: str, target: str) -> AsyncIterator[None]:
        """Record the block as `done`, or under the code of the error it raises."""
        try:
            yield
        except AngariumError as error:
            await self.record(principal, action, target, error.code)
            raise
        await self.record(principal, action, target, "done")

    def pseudonym(self, text: str) -> str:
        """`text` with every phone ghost replaced by its keyed hash."""

        def hashed(found: re.Match[str]) -> str:
            digest = hmac.new(self._key, found.group().encode(), hashlib.sha256).hexdigest()
            return f"ghost:{digest[:GHOST_HASH_CHARS]}"

        return _GHOST.sub(hashed, text)
