"""Files that go with a reply: sealed and uploaded once, also when the turn is run again."""

import hashlib
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from angarium.agents.contract import Media
from angarium.agents.ledger import KeptFile
from angarium.agents.records import OpenTurn
from angarium.agents.tools import LiveTools
from angarium.e2ee.attachments import SealedFile
from angarium.e2ee.body import FileRef
from angarium.errors import NotFound
from angarium.ids import ConversationId
from angarium.limits import REPLY_FILE_NAME_CHARS_MAX, REPLY_FILES_BYTES_MAX, REPLY_FILES_MAX

LEFT_OUT = "\n\n[A file was too large, or one too many, and was left out.]"


@dataclass(frozen=True, slots=True)
class Files:
    """How a gateway reads attachments and stores its own; `store` uploads what the plan seals
    and returns the SHA-256 of the ciphertext. The same plan again changes nothing."""

    read: Callable[[ConversationId, FileRef], Awaitable[bytes]]
    store: Callable[[SealedFile, bytes], Awaitable[bytes]]


async def _read_nothing(_conversation: ConversationId, _file: FileRef) -> bytes:
    raise NotFound("this gateway does not read attachments")


async def _store_nothing(_plan: SealedFile, _data: bytes) -> bytes:
    raise NotFound("this gateway does not store files")


NO_FILES = Files(_read_nothing, _store_nothing)


class ReplyFiles:
    """The files of one attempt's reply, in their order.

    Key and place of each are saved in the turn's journal before it is uploaded, so that a later
    attempt that sends the same file makes the same ciphertext at the same place.
    """

    def __init__(self, turn: OpenTurn, tools: LiveTools, files: Files) -> None:
        self._turn, self._tools, self._files = turn, tools, files
        self._bytes = 0
        self._used: set[str] = set()
        self.refs: list[FileRef] = []

    async def add(self, media: Media) -> str:
        """Upload it; returns what the text must say of it: nothing, or that it was left out.
        Raises what the journal and the upload raise."""
        self._bytes += len(media.data)
        if len(self.refs) >= REPLY_FILES_MAX or self._bytes > REPLY_FILES_BYTES_MAX:
            return LEFT_OUT
        conversation = self._turn.record.conversation
        kept = await self._keep(media)
        plan = SealedFile(conversation, kept.blob, kept.key, len(media.data))
        sha256 = await self._files.store(plan, media.data)
        name = _safe(media.name)
        content_type = media.content_type[:REPLY_FILE_NAME_CHARS_MAX]
        self.refs.append(plan.reference(sha256, name, content_type))
        return ""

    async def _keep(self, media: Media) -> KeptFile:
        digest = hashlib.sha256(media.data).hexdigest()
        for kept in self._turn.journal.files:
            if kept.digest == digest and kept.blob not in self._used:
                break
        else:
            kept = KeptFile(digest, str(uuid.uuid4()), secrets.token_bytes(32))
            self._turn.journal.files.append(kept)
            await self._tools.save()
        self._used.add(kept.blob)
        return kept


def _safe(name: str) -> str:
    """The last part of what an agent calls it, printable and bounded."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    cleaned = "".join(letter for letter in last if letter.isprintable()).lstrip(".")
    return cleaned[:REPLY_FILE_NAME_CHARS_MAX] or "attachment"
